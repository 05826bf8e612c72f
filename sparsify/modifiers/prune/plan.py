"""What a `prune` plans, as data: who competes for what, when, and how many weights are left at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsify.layers import Weight
from sparsify.masking import Competition
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.prune.fields import PruneFields
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
