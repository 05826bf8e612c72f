"""Operations element by element: activations, sums, products. Channels that meet must die together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsify.structure.channels.follower import Call, Follower
from sparsify.structure.channels.labels import Origin, Seen, distinct, pairs, varies

ALSO = frozenset({"hardswish", "hardswish_", "_prelu_kernel"})
"""What torch does not mark as such."""

MANY = "acts on many channels at once"
MEETS = "meets, channel by channel, something whose channels cannot die"


def pointwise(follower: Follower, call: Call) -> bool:
    """Join the channels that meet; find out by trying whether a dead one still is zero afterwards."""
    if torch.Tag.pointwise not in call.func.tags and call.name not in ALSO:
        return False
    results = call.results()
    seen = {id(each): found for each in call.tensors() if (found := follower.seen(each)) is not None}
    if len(results) != 1 or not seen:
        return False
    (output,) = results
    labels = torch.zeros((), dtype=torch.int64).expand(output.shape)
    live: set[int] = set()
    for tensor in sorted((each for each in call.tensors() if id(each) in seen), key=lambda each: _free(each, output)):
        own = seen[id(tensor)].labels.expand(output.shape)
        if _many(labels, tensor, output):
            follower.classes.keep(distinct(own), f"{follower.where}: {call.name} {MANY}")
            live.add(id(tensor))
            continue
        if not bool((labels != 0).any()):
            labels = own
            continue
        for one, other in pairs(labels, own):
            if one != other:
                follower.classes.join(one, other, f"{follower.where}: {call.name} {MEETS}")
        labels = torch.maximum(labels, own)
    parameters = set[int]()
    for tensor in call.tensors():
        if id(tensor) in seen:
            continue
        origin = follower.origin(tensor)
        if origin is not None and _scales(follower, origin, tensor, labels, output):
            parameters.add(id(tensor))
        elif _many_of(labels, tensor, output):
            follower.keep([*call.tensors()], f"{call.name} {MEETS}")
            labels = torch.zeros((), dtype=torch.int64).expand(output.shape)
        elif origin is not None:
            follower.keep([tensor], f"{call.name} on all channels")
    dead = {each for each, found in seen.items() if found.zero and each not in live} | parameters
    zero = _stays_zero(call, dead)
    why = "" if zero else next((found.why for found in seen.values() if found.why), f"{call.name} in {follower.where}")
    if not (zero and all(found.zero for found in seen.values())):
        for tensor in call.written:
            follower.overwritten(tensor, f"{call.name} writes into it, or into a view of it", alone=False)
    if not zero and live:  # what is added to every channel is there in dead ones, too
        follower.classes.keep(distinct(labels), f"{follower.where}: {call.name} {MANY}")
    follower.note(output, Seen(labels, zero, why))
    return True


def _free(tensor: Tensor, output: Tensor) -> int:
    """Return along how many dimensions a tensor is repeated."""
    missing = output.dim() - tensor.dim()
    return missing + sum(a != b for a, b in zip(tensor.shape, output.shape[missing:], strict=True))


def _many(labels: Tensor, tensor: Tensor, output: Tensor) -> bool:
    """Whether labels change along a dimension in which a tensor is repeated."""
    missing = output.dim() - tensor.dim()
    repeated = [a for a in range(output.dim()) if a < missing or tensor.shape[a - missing] != output.shape[a]]
    return any(varies(labels, axis) for axis in repeated)


def _many_of(labels: Tensor, tensor: Tensor, output: Tensor) -> bool:
    """Whether a tensor without channels has its own values along a dimension in which labels change."""
    missing = output.dim() - tensor.dim()
    return any(tensor.shape[axis] > 1 and varies(labels, axis + missing) for axis in range(tensor.dim()))


def _scales(follower: Follower, origin: Origin, tensor: Tensor, labels: Tensor, output: Tensor) -> bool:
    """Attach a parameter that has a value for each channel, along its first dimension; return whether it is one."""
    if math.prod(origin.shape[1:]) != 1 or not _many_of(labels, tensor, output):
        return False
    found = pairs(origin.places.expand(output.shape), labels)
    follower.classes.attach(
        (origin.name, 0), "norm", [one for one, _ in found], [other for _, other in found], follower.where
    )
    return True


def _stays_zero(call: Call, dead: set[int]) -> bool:
    """Whether zeros in place of some arguments make zeros, whatever the others are."""

    def probe(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) in dead:
                return torch.zeros(3, dtype=value.dtype)
            if value.dtype == torch.bool:
                return torch.tensor([True, False, True])
            return torch.tensor([0.7, -1.3, 2.1]).to(value.dtype)
        return [probe(each) for each in value] if isinstance(value, (list, tuple)) else value

    try:
        found = call.func(*map(probe, call.args), **{key: probe(each) for key, each in call.kwargs.items()})
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(found, Tensor) and not bool(found.any())
