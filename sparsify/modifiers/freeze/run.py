"""A `freeze` at work: the optimizers find no gradient, and so leave a parameter and its momentum as they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sparsify.errors import HookError
from sparsify.modifiers.contract import Run, Session
from sparsify.modifiers.plans import ModifierPlan


@dataclass(frozen=True, kw_only=True)
class FreezePlan(ModifierPlan):
    """A `freeze` resolved to steps and parameters (`touches`). It has no `weights`: it masks nothing."""

    def active(self, step: int) -> bool:
        """Whether parameters are frozen in the step that follows `step` completed ones."""
        return self.window.begin <= step < self.window.end


class FreezeRun(Run):
    """Drops gradients when everybody has read them and added to them; it keeps nothing, so it has no state."""

    plan: FreezePlan

    def __init__(self, plan: FreezePlan, session: Session) -> None:
        super().__init__(plan)
        self.masks = session.masks
        self._versions: dict[str, int] = {}

    def alters_gradients(self, step: int) -> bool:
        return self.plan.active(step)

    def penalise(self, step: int) -> None:
        self._versions = {}
        for weight in self.plan.touches if self.plan.active(step) else ():
            weight.parameter.grad = None
            if not self.masks.hides(weight):  # a latent weight is swapped in and out: it is written to, and unchanged
                self._versions[weight.name] = weight.parameter._version

    def commit(self, step: int, skipped: Collection[int]) -> None:
        versions, self._versions = self._versions, {}
        for weight in self.plan.touches:
            if versions.get(weight.name, weight.parameter._version) != weight.parameter._version:
                raise HookError(
                    f"{self.key}: {weight.name} is frozen, and was written to between on_before_optimizer_step() and "
                    "on_step_end() all the same: an optimizer that moves parameters without gradients is not supported"
                )

    def rollback(self) -> None:
        self._versions = {}
