"""Which of the user's learning rates the scores of a bundle follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsify.errors import PlanError
from sparsify.modifiers.prune.plan import PrunePlan


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
        """Take over the value of the step that is under way."""
        now = float(self.optimizer.param_groups[self.group]["lr"])
        self.factor = now / self.initial if follow and self.initial > 0 else 1.0


def rates(optimizers: Sequence[torch.optim.Optimizer], plan: PrunePlan) -> dict[str, Rate]:
    """Return the rate of the group that holds the first weight of each bundle, by bundle; bundles may share one.

    Raises PlanError for a weight that no optimizer trains.
    """
    found: dict[int, Rate] = {}
    for optimizer in optimizers:
        for index, group in enumerate(optimizer.param_groups):
            rate = Rate(optimizer, index)
            found |= {id(parameter): rate for parameter in group["params"]}
    for weight in plan.weights:
        if id(weight.parameter) not in found:
            raise PlanError(f"{plan.key}: the optimizer does not train {weight.name}, so its scores cannot be learned")
    return {bundle.name: found[id(bundle.parts[0].weight.parameter)] for bundle in plan.competition.bundles}
