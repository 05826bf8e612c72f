"""What configurations say of norms and activations: which fields do, which modules they govern, and saying it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from sparsify.structure.change import Substituted
from sparsify.structure.configs import configs, is_configured
from sparsify.substitutes import AFTER, BEFORE, RECORD

ACTIVATIONS = (
    "hidden_act", "hidden_activation", "activation_function", "activation", "dense_act_fn", "feed_forward_proj",
    "encoder_activation_function", "decoder_activation_function",
)  # fmt: skip
"""Fields that name the activation of feed-forward blocks."""

NORMS = ("normalization_type",)
"""Fields that name the kind of norm: MobileBERT's."""

CHECKED = ("feed_forward_proj",)
"""Fields that transformers checks whenever it saves; another field says the same there."""

_BETWEEN = "-to-"


def configured(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the outermost modules that are saved with a configuration, by name."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        if is_configured(module):
            yield name, module
            inside = (*inside, f"{name}." if name else "")


def fields_of(config: Any, names: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a configuration, and of those in it, that have one of these names, and their values."""
    return dict(_found(config.to_dict(), names))


def _found(data: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if key in names and isinstance(value, str):
            yield key, value.partition(_BETWEEN)[0]
        elif isinstance(value, dict):
            yield from _found(value, names)


def new_value(field: str, value: str) -> str:
    """Return what a field says when all is done."""
    if field in NORMS:
        return "no_norm"
    return "gated-relu" if value.startswith("gated-") else "relu"


def old_value(field: str, value: str) -> str:
    """Return what a field has said before; where that is not known, something else than it will say."""
    if value != new_value(field, value):
        return value
    if field in NORMS:
        return "layer_norm"
    return "gated-gelu" if value.startswith("gated-") else "gelu"


def made_of(module: Any, values: Mapping[str, str]) -> nn.Module:
    """Return a model like one that is saved with a configuration, on the meta device, with other values in it."""
    data = _replaced(copy.deepcopy(module.config.to_dict()), values)
    data.pop(RECORD, None)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        made: nn.Module = type(module)(type(module.config).from_dict(data))
    return made


def _replaced(data: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    for key, value in data.items():
        if key in values and isinstance(value, str):
            data[key] = values[key]
        elif isinstance(value, dict):
            _replaced(value, values)
    return data


def say(model: nn.Module, change: Substituted, phase: str) -> None:
    """Have configurations say how far the substitution is.

    Within the window nothing can be said that others understand: they fail to load the model then, and say what it is.
    """
    for config in configs(model, ""):
        for field, (before, after) in change.fields.items():
            between = before if field in CHECKED else f"{before}{_BETWEEN}{after}"
            if vars(config).get(field) in (before, between, after):
                setattr(config, field, {BEFORE: before, AFTER: after}.get(phase, between))
    for name, module in configured(model) if change.marked and change.norms else ():
        start = f"{name}." if name else ""
        if phase == AFTER:
            setattr(module.config, RECORD, [n.removeprefix(start) for n in change.norms if n.startswith(start)])
        elif hasattr(module.config, RECORD):
            delattr(module.config, RECORD)
