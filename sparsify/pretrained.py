"""Models of transformers: their architecture without weights, for planning; whole, from folders."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import heads, widths
from sparsify.configs import config_of, has_own_code, library
from sparsify.errors import PlanError, SparsifyError, first_line
from sparsify.spec import load_plugins
from sparsify.substitutes import saved_class

__all__ = ["config_of", "first_line", "load", "planned", "positions", "saved_names", "skeleton"]

FROM_PADDING = (
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert",
    "longformer", "data2vec-text", "ibert", "mpnet", "luke", "mluke",
    "lilt", "markuplm", "layoutlmv3", "esm", "altclip_text_model", "clap_text_model",
    "bridgetower_text_model",
)  # fmt: skip
"""Kinds of models whose first position comes after that of the padding token."""

IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files that an image processor may be in."""


def skeleton(name: str) -> nn.Module:
    """Return the model that a configuration names on the meta device: shapes, no weights.

    `name` is a folder with `config.json`, or a hub name. Raises PlanError.
    """
    return planned(name)[0]


def widest(name: str) -> nn.Module | None:
    """Return the model of a folder with the widths that config.json alone says, without weights.

    None where no other widths lie beside it: then it is the folder's model. Raises PlanError.
    """
    if widths.read(name) is None:
        return None
    config = config_of(name)
    return _made(name, config, heads.named_class(config), None)


def planned(name: str, task: str | None = None, labels: int | None = None) -> tuple[nn.Module, list[str]]:
    """Return the model that `sparsify train --task` would train, on the meta device, and notes on what it is.

    Without a task it is the class that config.json names, or the bare model. Only the configuration is read.
    `labels` is the number of classes in the data. Raises PlanError for whatever cannot be made, with the reason.
    """
    load_plugins()  # one of them may make a kind of model known
    config = config_of(name)
    if task is None:
        kind = heads.named_class(config)
        notes = [] if kind is not None else [heads.nameless(config)]
        return _made(name, config, kind, widths.read(name)), [*notes, *_own_code(config)]
    heads.check_head(name, config, task)
    before = copy.deepcopy(config)
    notes = []
    if task == "text-regression":
        heads.set_regression(config)
    elif task in heads.LABELLED and labels is not None and labels != config.num_labels:
        heads.set_labels(config, [f"LABEL_{number}" for number in range(labels)])
    elif task in heads.LABELLED and labels is None:
        notes.append(f"the head has {config.num_labels} labels, as config.json says; train gives it those of the data")
    model = _with_head(name, config, task)
    if task == "causal-lm" and heads.declares_ahead(model):
        raise PlanError(heads.LOOKS_AHEAD.format(name=name, kind=config.model_type))
    kind = heads.named_class(before)
    if kind is not None:
        saved = _made(name, before, kind, widths.read(name))
        shapes = {key: tuple(parameter.shape) for key, parameter in saved.named_parameters()}
        notes += heads.told(heads.fresh(model, shapes))
    return model, [*notes, *_own_code(config)]


def load(directory: str | Path) -> nn.Module:
    """Return the model of a folder in float32, ready for inference. Raises PlanError."""
    return from_folder(directory).float().eval()


OTHER_WIDTHS = ("ignore_mismatched_sizes", "per-layer attribute")
"""What transformers says, naming a flag or an attribute and no tensor, where the file of widths is gone."""


def from_folder(directory: str | Path, *, state: dict[str, Tensor] | None = None, **named: Any) -> nn.Module:
    """Return the model of a folder, as its config.json names it and with the widths beside it, in evaluation mode.

    `state`, by the names that saved weights have, is taken instead of the folder's weights. `named` go to transformers'
    `from_pretrained` (`dtype`, `attn_implementation`, …). Raises PlanError, and StateError for damaged widths.
    """
    config, wide = config_of(str(directory)), widths.read(directory)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Casting complex values")
            kind = heads.named_class(config)
            if kind is None and wide:
                raise PlanError("config.json names no class, and its widths are those of one")
            maker: Any = widths.resized(saved_class(kind or library().AutoModel, config), wide)
            code = {} if kind else {"trust_remote_code": False}
            if state is None:
                model = maker.from_pretrained(directory, config=config, **code, **named)
            else:
                model = maker.from_pretrained(None, config=config, state_dict=state, **code, **named)
                _generates(model, directory)
            if kind is not None:
                model.__class__ = kind
    except SparsifyError as error:
        raise PlanError(f"{directory}: {error}") from None
    except Exception as error:  # the library raises of every kind
        reason = first_line(error)
        if wide is None and any(words in str(error) for words in OTHER_WIDTHS):
            reason = (
                f"its tensors have other shapes than config.json says, and there is no {widths.FILE} beside it. If it "
                "is a compacted model: save_pretrained and the Trainer leave it out; use sparsify.save(model, DIR)"
            )
        raise PlanError(f"{directory}: the model cannot be loaded: {reason}") from None
    assert isinstance(model, nn.Module)
    return model


def _generates(model: Any, directory: str | Path) -> None:
    """Let a model generate as the file beside its weights says; transformers reads it with the weights alone."""
    if (Path(directory) / "generation_config.json").exists() and model.can_generate():
        model.generation_config = library().GenerationConfig.from_pretrained(directory)


def tokenizer(name: str | Path) -> Any:
    """Return the tokenizer of a folder or a hub name. Raises PlanError where there is none."""
    try:
        found: Any = library().AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{name}: its tokenizer cannot be loaded: {first_line(error)}") from None
    if len(found) <= len(found.all_special_tokens):  # so the library makes one where no file is there
        raise PlanError(f"{name}: there is no tokenizer beside the model: save it there, with save_pretrained")
    return found


def image_processor(name: str | Path) -> Any:
    """Return the image processor of a folder or a hub name. Raises PlanError where there is none."""
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in IMAGE_PROCESSORS):
        raise PlanError(
            f"{name}: there is no image processor beside the model ({IMAGE_PROCESSORS[0]}): save that of the model it "
            "was made from there, with save_pretrained"
        )
    try:
        return library().AutoImageProcessor.from_pretrained(str(name), trust_remote_code=False)
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{name}: its image processor cannot be loaded: {first_line(error)}") from None


def saved_names(model: nn.Module) -> dict[str, str]:
    """Return name in a saved file → name in the model, where transformers writes weights under older names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {id(parameter): name for name, parameter in parameters.items()}
    saved = as_saved(model, dict(parameters))
    return {key: names[id(tensor)] for key, tensor in saved.items() if key not in parameters and id(tensor) in names}


def as_saved(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors, given by their names in a model, as transformers writes them: renamed, joined or taken apart."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5 there was one set of names
        return tensors
    saved: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    return saved


def positions(config: Any) -> int | None:
    """Return the most tokens that a model of texts has places for; None where its configuration does not say."""
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        return None
    if getattr(config, "model_type", "") in FROM_PADDING:
        most -= (getattr(config, "pad_token_id", None) or 0) + 1
    return most


def _made(name: str, config: Any, kind: type[nn.Module] | None, wide: widths.Widths | None) -> nn.Module:
    """Return the model of a class, of these widths, or the bare one; without weights."""

    def make() -> Any:
        if kind is None:
            return library().AutoModel.from_config(config, trust_remote_code=False)
        return widths.resized(saved_class(kind, config), wide)(config)

    return _weightless(name, make, kind)


def _with_head(name: str, config: Any, task: str) -> nn.Module:
    """Return the model of a task without weights; in float32, as it is trained."""
    maker, kind = heads.auto_class(config, task, widths.read(name))

    def make() -> Any:
        return maker(config) if kind else maker.from_config(config, trust_remote_code=False)

    return _weightless(name, make, kind).float()


def _weightless(name: str, make: Callable[[], Any], kind: type[nn.Module] | None) -> nn.Module:
    try:
        with torch.device("meta"):
            model = make()
            if kind is not None:
                model.__class__ = kind
    except Exception as error:  # whatever a model does with sizes that are none, and packages that are missing
        raise PlanError(f"{name}: no model can be made of its config.json: {first_line(error)}") from None
    assert isinstance(model, nn.Module)
    return model


def _own_code(config: Any) -> list[str]:
    """Return the note on code that comes with a model."""
    if not has_own_code(config):
        return []
    kind = config.model_type
    return [f"config.json names code of its own (auto_map), which is never run: this is transformers' own {kind}"]
