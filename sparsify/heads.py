"""Which class of transformers a model becomes: that of a task, as `sparsify train` takes it, or the one it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from sparsify.configs import library
from sparsify.errors import PlanError
from sparsify.substitutes import RECORD, saved_class
from sparsify.widths import Widths, resized

AUTO = {
    "text-classification": "AutoModelForSequenceClassification",
    "text-regression": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
}
"""Task → the class of transformers that gives a model its head."""

PIPELINES = {
    "text-classification": AUTO["text-classification"],
    "token-classification": AUTO["token-classification"],
    "question-answering": AUTO["question-answering"],
    "fill-mask": AUTO["masked-lm"],
    "text-generation": AUTO["causal-lm"],
    "image-classification": AUTO["image-classification"],
    "feature-extraction": "AutoModel",
}
"""Pipelines over texts or images → the class of their models; the first that fits a model is meant."""

LABELLED = ("text-classification", "image-classification", "token-classification")
"""Tasks whose head has a row for every label of the data."""

LOOKS_AHEAD = (
    "{name}: a {kind} model sees the tokens that come next, and would learn nothing from causal-lm: "
    "use --task masked-lm, or a model that reads from left to right"
)
MOST_SHOWN = 4


def check_head(name: str, config: Any, task: str) -> None:
    """Raise PlanError where transformers has no head for `task` on a configuration's kind of model."""

    def has(task: str) -> bool:
        return type(config) in getattr(library(), AUTO[task])._model_mapping

    if has(task):
        return
    others = [other for other in AUTO if other != task and has(other)]
    hint = f" (it has one for --task {' or '.join(others)})" if others else ""
    made = ", ".join(_architectures(config)) or type(config).__name__
    raise PlanError(f"{name}: a {config.model_type} model ({made}) has no head for {task}{hint}")


def auto_class(config: Any, task: str, wide: Widths | None = None) -> tuple[type[Any], type[nn.Module] | None]:
    """Return what makes or loads a model for a task, and the class that the made one is to have where it is another.

    `wide` are the widths that lie beside the configuration.
    """
    kind = getattr(library(), AUTO[task])
    if not getattr(config, RECORD, None) and not wide:
        return kind, None
    found = kind._model_mapping[type(config)]
    return resized(saved_class(found, config), wide), found


def set_labels(config: Any, labels: Iterable[str]) -> None:
    """Give the head a row for each label."""
    names = list(labels)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {label: number for number, label in enumerate(names)}


def set_regression(config: Any) -> None:
    """Give the head one row, which is a number."""
    config.num_labels, config.problem_type = 1, "regression"


def named_class(config: Any) -> type[nn.Module] | None:
    """Return the class of model that a configuration names, if it is one of transformers for this kind of model."""
    named = _architectures(config)
    kind = getattr(library(), named[0], None) if named else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return None
    wanted: Any = getattr(kind, "config_class", None)
    if wanted is None or not (isinstance(config, wanted) or wanted.model_type == config.model_type):
        return None
    return kind


def nameless(config: Any) -> str:
    """Return the note for a configuration that names no class of a model."""
    named = _architectures(config)
    what = "no architecture"
    if named:
        what = f"the architecture {named[0]!r}, which is no class of a {config.model_type} model"
    bare = _bare_class(config)
    return f"config.json names {what}: planned on the bare model ({bare}); --task says which head train adds"


def headless(model: nn.Module) -> str:
    """Return what to know about names where a model has no head, as that of `sparsify train` has; else nothing."""
    kind, prefix = type(model).__name__, getattr(model, "base_model_prefix", "")
    if kind != _bare_class(model.config):
        return ""
    return f"{kind} has no head: --task says which one train adds, and its modules are then called {prefix}.…"


def fresh(model: nn.Module, saved: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the parameters of a model that a file with these names and shapes has nothing for, under any name."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names: dict[int, list[str]] = {}
    known = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        if tuple(parameter.shape) in (saved.get(each) for each in (name, name.removeprefix(prefix), prefix + name)):
            known.add(id(parameter))
    return [first for key, (first, *_) in names.items() if key not in known]


def told(names: Iterable[str]) -> list[str]:
    """Return the note on parameters that are new in a model; none where there are none."""
    new = sorted(names)
    more = f" and {len(new) - MOST_SHOWN} more" if len(new) > MOST_SHOWN else ""
    return [f"new, with random weights: {', '.join(new[:MOST_SHOWN])}{more}"] if new else []


def declares_ahead(model: nn.Module) -> bool:
    """Whether a model for causal-lm reads in both directions, by what its configuration says; weights are not asked.

    That of a kind that has a masked head too reads from left to right only where it is told to.
    """
    config: Any = model.config
    two_ways = type(config) in library().AutoModelForMaskedLM._model_mapping
    told = any(getattr(config, name, False) for name in ("is_decoder", "causal"))
    return (two_ways and not told) or getattr(config, "attn_type", None) == "bi"


def _architectures(config: Any) -> list[str]:
    named = getattr(config, "architectures", None)
    return [str(name) for name in ([named] if isinstance(named, str) else named or [])]


def _bare_class(config: Any) -> str:
    """Return the name of the class without a head."""
    mapping = library().AutoModel._model_mapping
    found = mapping[type(config)] if type(config) in mapping else type(config)
    kind = found[0] if isinstance(found, (list, tuple)) else found
    return str(kind.__name__)
