"""Models for planning: the architecture without its weights."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import PlanError, did_you_mean
from sparsify.files import contents
from sparsify.substitutes import saved_class

MOST_LAYERS = 10_000
FROM_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer")
"""Kinds of models whose first position comes after that of the padding token."""


def skeleton(name: str) -> nn.Module:
    """Return the model of a transformers configuration on the meta device: shapes, no weights.

    `name` is a folder with `config.json`, or a hub name. Raises PlanError.
    """
    transformers = _library()
    config = config_of(name)
    kind = _class_of(config)
    _check_size(name, config)
    try:
        with torch.device("meta"):
            if kind is not None:
                model = saved_class(kind, config)(config)
                model.__class__ = kind
            else:
                model = transformers.AutoModel.from_config(config)
    except Exception as error:  # whatever a model does with sizes that are none
        raise PlanError(f"{name}: no model can be made of its config.json: {first_line(error)}") from None
    assert isinstance(model, nn.Module)
    return model


def load(directory: str | Path) -> nn.Module:
    """Return the model of a folder in float32, ready for inference. Raises PlanError."""
    transformers = _library()
    config = config_of(str(directory))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Casting complex values")
            kind = _class_of(config)
            model = saved_class(kind or transformers.AutoModel, config).from_pretrained(directory, config=config)
            if kind is not None:
                model.__class__ = kind
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{directory}: the model cannot be loaded: {first_line(error)}") from None
    assert isinstance(model, nn.Module)
    return model.float().eval()


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


def _library() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise PlanError("models need transformers: pip install 'sparsify-torch[transformers]'") from None
    return transformers


def _class_of(config: Any) -> Any:
    """Return the class of model that a configuration names, or None."""
    named = getattr(config, "architectures", None)
    first = named[0] if isinstance(named, list) and named else None
    kind = getattr(_library(), first, None) if isinstance(first, str) else None
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None


def _check_size(name: str, config: Any) -> None:
    """Raise PlanError for more layers than any model has: each would be made, one by one."""
    for key, value in vars(config).items():
        if "layers" in key and isinstance(value, int) and value > MOST_LAYERS:
            raise PlanError(f"{name}: config.json asks for {value} layers ({key}), more than {MOST_LAYERS}")


def first_line(error: BaseException) -> str:
    """Return what a library's error says, in a line."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def config_of(name: str) -> Any:
    """Return the configuration of a folder or hub name. Raises PlanError."""
    from transformers import AutoConfig, logging

    logging.set_verbosity_error()
    folder = Path(name)
    if os.path.isdir(folder) and not os.path.isfile(folder / "config.json"):
        raise PlanError(f"{name}: the folder holds no config.json")
    if os.path.isfile(folder):
        raise PlanError(f"{name} is a file; give the folder that holds config.json, or a hub name")
    if not os.path.isdir(folder) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        near = [str(other) for other in contents(folder.parent)]
        raise PlanError(f"{name}: no such folder{did_you_mean(name, near, most=0)}")
    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:
        offline = " (offline: HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise PlanError(f"{name}: no configuration to be had{offline}: {first_line(error)}") from None
