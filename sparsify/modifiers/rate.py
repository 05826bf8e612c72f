"""A learning rate of our own follows one of the user's, or of the recipe's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsify.modifiers.step_rates import factor_in_force


@dataclass(eq=False)
class Rate:
    """The learning rate of one parameter group of the user's."""

    optimizer: torch.optim.Optimizer
    group: int
    """Its index."""

    initial: float = 0.0
    """At the beginning of its schedule."""

    factor: float = 1.0
    """Its value in the step that is under way ÷ `initial`; 1 where nothing is followed, or it started at 0."""

    def begin(self) -> None:
        """Note where the schedule begins."""
        group = self.optimizer.param_groups[self.group]
        self.initial = float(group.get("initial_lr", group["lr"]))

    def read(self, *, follow: bool) -> None:
        """Take over the value of the step that is under way: the user's, or that of the recipe in its place."""
        ours = factor_in_force(self.optimizer) if follow else None
        now = float(self.optimizer.param_groups[self.group]["lr"])
        self.factor = ours if ours is not None else now / self.initial if follow and self.initial > 0 else 1.0
