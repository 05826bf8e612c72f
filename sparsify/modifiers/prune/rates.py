"""Which of the user's learning rates the scores of a bundle follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsify.errors import PlanError
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.rate import Rate


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
