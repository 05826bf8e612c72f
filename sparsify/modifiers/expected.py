"""What is known beforehand of tensors that compete: for plans, before any weight is read."""

from __future__ import annotations

import math

from sparsify.masking import Competition
from sparsify.modifiers.plans import TensorPlan, dtype_of
from sparsify.patterns.bundle import Bundle, Part


def expect(competition: Competition, target: float | None) -> tuple[tuple[TensorPlan, ...], int | None]:
    """Return what is known beforehand about each tensor, and the non-zero weights of all together."""
    targets: dict[int, float] = {}
    groups: dict[int, int] = {}
    total: int | None = None if target is None else 0
    for arena in competition.arenas if target is not None else []:
        for share in competition.shares(arena, target or 0.0):
            pruned = competition.pruned(share)
            targets |= dict.fromkeys(share.members, share.sparsity)
            if pruned is None:
                total = None
                continue
            size = competition.bundles[share.members[0]].size
            total = None if total is None else total + competition.elements(share.members) - pruned * size
            if len(share.members) == 1:
                groups[share.members[0]] = competition.bundles[share.members[0]].count - pruned
    tensors = [
        _tensor(bundle, part, targets.get(index), groups.get(index))
        for index, bundle in enumerate(competition.bundles)
        for part in bundle.parts
    ]
    return tuple(tensors), total


def _tensor(bundle: Bundle, part: Part, target: float | None, groups: int | None) -> TensorPlan:
    """Return the plan of a tensor in a bundle of which `groups` groups are kept, where that is known."""
    return TensorPlan(
        name=part.weight.name,
        shape=part.weight.shape,
        dtype=dtype_of(part.weight),
        elements=part.weight.geometry.elements,
        target=target,
        nonzeros=None if groups is None else groups * bundle.quota * math.prod(part.tile),
        bundle=bundle.name,
        groups=bundle.count,
    )
