"""Whether a model that lost layers is the model that its new configuration describes: the folder must load as such."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sparsify.errors import first_line
from sparsify.structure.change import Dropped
from sparsify.structure.configs import is_configured
from sparsify.structure.drop import drop
from sparsify.substitutes import saved_class

TRAINING = ("drop_prob", "drop_path_rate")
"""What is spread over the layers, and only meant for a training."""

SIMPLE = (bool, int, float, str, type(None))


def misfit(model: nn.Module, change: Dropped, container: str) -> str | None:
    """Return how the model would differ from one that is made of the new configuration, or None.

    Both are made of the configuration alone, without weights: what the user has changed by hand does not matter. Where
    the model is no model with a configuration, or cannot be made of it, nothing is known, and nothing is said.
    """
    place, whole = _configured(model, container)
    if whole is None:
        return None
    inside = change.stack.removeprefix(f"{place}.") if place else change.stack
    try:
        shorter = make(whole, whole.config)
    except Exception:  # whatever a class of the user's own wants beside a configuration
        return None
    try:
        drop(shorter, Dropped(inside, change.layers, change.kept))
    except KeyError:  # its layers are elsewhere, as under a wrapper
        return None
    try:
        fresh = make(shorter, shorter.config)
    except Exception as error:  # whatever a configuration does that cannot be
        return f"no model can be made of the new configuration: {first_line(error)}"
    return next(_differences(shorter, fresh), None)


def _configured(model: nn.Module, container: str) -> tuple[str, Any]:
    """Return the outermost module around a container that is saved with a configuration, and its name."""
    parts = container.split(".")
    for depth in range(len(parts)):
        name = ".".join(parts[:depth])
        module = model.get_submodule(name)
        if is_configured(module):
            return name, module
    return "", None


def make(model: Any, config: Any) -> nn.Module:
    """Make a model of a configuration, as it would be read from a file, on the meta device."""
    read_back = type(config).from_dict(copy.deepcopy(config.to_dict()))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        made: nn.Module = saved_class(type(model), read_back)(read_back)
    return made


def _differences(found: nn.Module, wanted: nn.Module) -> Iterator[str]:
    """Yield in what two models differ, beside their configurations: modules, shapes, attributes with plain values."""
    one, other = (dict(each.named_modules()) for each in (found, wanted))
    for name in [*one, *(name for name in other if name not in one)]:
        mine, theirs = one.get(name), other.get(name)
        if mine is None or theirs is None:
            yield f"{name} is in only one of the model and what its new configuration makes"
        elif _kind(mine) != _kind(theirs):
            yield f"{name} is a {type(mine).__name__}, and would be loaded as a {type(theirs).__name__}"
        else:
            first, second = _facts(mine), _facts(theirs)
            for key in {**first, **second}:
                if first.get(key) != second.get(key):
                    yield f"{name}.{key} is {first.get(key)!r}, and would be loaded as {second.get(key)!r}"


def _kind(module: nn.Module) -> tuple[str, str]:
    """Return what a module is; a parametrized one has a class of its own, with the same name."""
    return type(module).__module__, type(module).__qualname__


def _facts(module: nn.Module) -> dict[str, Any]:
    """Return what a module is beside its weights: their shapes, and attributes that are plain values."""
    tensors = {**module._parameters, **module._buffers}
    shapes = {name: None if tensor is None else tuple(tensor.shape) for name, tensor in tensors.items()}
    named = {key: value for key, value in vars(module).items() if not key.startswith("_") and key not in TRAINING}
    plain = {key: value for key, value in named.items() if _is_plain(value)}
    return {**shapes, **plain}


def _is_plain(value: Any) -> bool:
    return isinstance(value, SIMPLE) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))
