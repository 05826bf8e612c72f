"""`distill` resolved to steps. The teacher is not there yet: `apply` is given it."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify.modifiers.distill.fields import DistillFields
from sparsify.modifiers.plans import ModifierPlan


@dataclass(frozen=True, kw_only=True)
class DistillPlan(ModifierPlan):
    """It has no `weights` and no `touches`: it changes the loss alone."""

    spec: DistillFields

    def active(self, step: int) -> bool:
        """Whether it acts in the step that follows `step` completed ones."""
        return self.window.begin <= step < self.window.end
