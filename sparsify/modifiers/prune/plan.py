"""What a `prune` plans, as data: who competes for what, when, and how many weights are left at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sparsify.layers import Weight
from sparsify.masking import Competition
from sparsify.modifiers.plans import ModifierPlan, TensorPlan, dtype_of
from sparsify.modifiers.prune.fields import PruneFields
from sparsify.patterns.bundle import Bundle, Part
from sparsify.schedules import Level, Ramp
from sparsify.schedules.window import StepWindow


@dataclass(frozen=True)
class Strength:
    """The λ of a penalty that is not steered, over time."""

    window: StepWindow
    level: Level

    def at(self, step: int) -> float:
        """Return λ when `step` steps are completed."""
        return self.level.at(self.window.progress(step))


@dataclass(frozen=True, kw_only=True)
class PrunePlan(ModifierPlan):
    """A `prune` resolved to steps and tensors."""

    spec: PruneFields
    competition: Competition
    strength: Strength | None = None
    biases: Mapping[str, Weight]
    """Biases to prune where their rows are, by the name of the matrix."""

    @property
    def ramp(self) -> Ramp | None:
        """The sparsity over the window."""
        return self.spec.sparsity


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
