"""A pretrained model with a head for the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sparsify.anatomy import ROLES, read
from sparsify.errors import PlanError, did_you_mean
from sparsify.pretrained import config_of, first_line
from sparsify.selectors import SelectorError, matcher
from sparsify.substitutes import RECORD, saved_class
from sparsify.train.labels import Labels

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


def config_for(name: str, task: str) -> Any:
    """Return the configuration of `name`, if transformers has its architecture with a head for `task`.

    Raises PlanError for a name that does not exist, or a model that has no head for the task.
    """
    import transformers

    config: Any = config_of(name)
    if type(config) not in getattr(transformers, AUTO[task])._model_mapping:
        others = [
            other
            for other in AUTO
            if other != task and type(config) in getattr(transformers, AUTO[other])._model_mapping
        ]
        hint = f" (it has one for --task {' or '.join(others)})" if others else ""
        made = ", ".join(getattr(config, "architectures", None) or []) or type(config).__name__
        raise PlanError(f"{name}: a {config.model_type} model ({made}) has no head for {task}{hint}")
    return config


def load(
    name: str, task: str, config: Any, labels: Labels | None, loaded: nn.Module | None = None
) -> tuple[nn.Module, list[str]]:
    """Return the model with a head for `labels`, if it has any, and notes on what is new in it. Raises PlanError.

    One that has been `loaded` already is returned as it is.
    """
    if loaded is not None:
        return loaded, []
    import transformers

    if labels is not None and tuple(config.id2label[i] for i in sorted(config.id2label)) != labels.names:
        config.num_labels = len(labels.names)
        config.id2label = dict(enumerate(labels.names))
        config.label2id = {label: number for number, label in enumerate(labels.names)}
    try:
        kind = getattr(transformers, AUTO[task])
        if getattr(config, RECORD, None):
            kind = kind._model_mapping[type(config)]
        model, info = saved_class(kind, config).from_pretrained(
            name, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{name}: the model cannot be loaded: {first_line(error)}") from None
    if getattr(config, RECORD, None):
        model.__class__ = kind
    _refuse_misfits(name, model, [_key(entry) for entry in info["mismatched_keys"]])
    fresh = sorted({*info["missing_keys"], *(_key(entry) for entry in info["mismatched_keys"])})
    notes = []
    if fresh:
        shown = ", ".join(fresh[:4]) + (f" and {len(fresh) - 4} more" if len(fresh) > 4 else "")
        notes.append(f"new, with random weights: {shown}")
    return model.float(), notes


def _refuse_misfits(name: str, model: nn.Module, keys: Sequence[str]) -> None:
    """Raise PlanError where weights of another shape are not those of the head, which is new for new labels."""
    body = f"{getattr(model, 'base_model_prefix', '')}."
    wrong = [key for key in keys if body != "." and key.startswith(body)]
    if wrong:
        raise PlanError(
            f"{name}: {wrong[0]} has another shape in the file of weights than config.json says: they are not of one "
            "model, and random weights would stand there"
        )


def _key(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry[0])


def freeze(model: nn.Module, selectors: Sequence[str]) -> int:
    """Stop training what the selectors name: a role (`attention`; `embeddings`, with their norms) or modules by name.

    Returns how many parameters that are. Raises PlanError for a selector that names nothing, or spares nothing.
    """
    frozen = 0
    for selector in selectors:
        found = _meant(model, selector)
        if not found:
            near = did_you_mean(selector, [*ROLES, *(name for name, _ in model.named_modules() if name)])
            raise PlanError(f"--freeze {selector}: nothing in the model is called that{near}")
        for parameter in found:
            frozen += parameter.numel() if parameter.requires_grad else 0
            parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise PlanError(f"--freeze {', '.join(selectors)}: nothing in the model would be left to train")
    return frozen


def _meant(model: nn.Module, selector: str) -> list[nn.Parameter]:
    if selector == "embeddings":
        base: Any = getattr(model, "base_model", model)
        return [p for name, part in base.named_children() if "embed" in name for p in part.parameters()]
    anatomy = read(model)
    if selector in ROLES and anatomy is not None:
        return [weight.parameter for weight in anatomy.role(selector)]
    try:
        meant = matcher(selector)
    except SelectorError as error:
        raise PlanError(f"--freeze {selector}: {error}") from None
    return [p for name, module in model.named_modules() if name and meant(name, module) for p in module.parameters()]
