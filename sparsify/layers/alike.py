"""When two modules compute the same, given the same weights: what answers found by trying are kept by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.bits import checksum

OWN = frozenset(vars(nn.Module())) - {"_parameters", "_buffers"} | {"_sparsify_origin", "_is_hf_initialized"}
"""What every module keeps, and which says nothing of what it computes in evaluation mode."""

PLACE = re.compile(r".*(idx|index)|(layer|block)_?(id|number|no)", re.IGNORECASE)
"""Attributes that hold the number of a layer: those of one model would all differ."""

DEEP = 6


def settings(module: nn.Module, *, places: bool = True) -> tuple[Any, ...]:
    """Return what tells a module from others that compute something else with the same weights; hashable.

    For each module in it: name, class, plain values, configurations, functions, and the shapes of parameters and
    buffers; of buffers of whole numbers the values too, for they may be an order. Weights are not read. Without
    `places`, numbers of layers and rates of dropout (which nothing is in evaluation mode) do not count.
    """
    seen: dict[int, Any] = {}
    return tuple((name, type(part), tuple(_values(part, places, seen))) for name, part in module.named_modules())


def _values(module: nn.Module, places: bool, seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(module).items()):
        if name in OWN or (not places and (PLACE.fullmatch(name) or "drop" in name)):
            continue
        if name == "_parameters":
            yield name, tuple((key, None if each is None else tuple(each.shape)) for key, each in value.items())
        else:
            yield name, _frozen(value, seen, 0)


def _frozen(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """Return a hashable value that differs where a setting does; of what cannot be compared, its class."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device | type):
        return type(value).__name__, value
    if isinstance(value, Tensor):
        counts = (
            not (value.is_floating_point() or value.is_complex() or value.is_meta) and value.layout == torch.strided
        )
        return tuple(value.shape), value.dtype, _whole(value) if counts else None
    if depth > DEEP or isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Mapping):
        return tuple((repr(key), _frozen(each, seen, depth + 1)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(_frozen(each, seen, depth + 1) for each in value)
    if isinstance(value, Set):
        return type(value).__name__, tuple(sorted(map(repr, value)))
    if callable(value) and (hasattr(value, "__code__") or isinstance(value, partial)):
        return _function(value, seen, depth)
    if id(value) not in seen:  # a configuration, say, which many modules share
        seen[id(value)] = None  # one that holds itself
        seen[id(value)] = _frozen(getattr(value, "__dict__", {}), seen, depth + 1)
    return type(value).__name__, getattr(value, "__name__", ""), seen[id(value)]


def _function(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """Return the code of a function, with what it was made with."""
    if isinstance(value, partial):
        return tuple(_frozen(each, seen, depth + 1) for each in (value.func, value.args, value.keywords))
    held = [value.__defaults__]
    for cell in value.__closure__ or ():
        with suppress(ValueError):  # empty as yet
            held.append(cell.cell_contents)
    return value.__code__, tuple(_frozen(each, seen, depth + 1) for each in held)


def _whole(value: Tensor) -> Any:
    return tuple(value.flatten().tolist()) if value.numel() <= 4096 else checksum(value)
