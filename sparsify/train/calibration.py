"""`--calibration`: the data on which a recipe measures which layers can go, read like those to train on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from sparsify.errors import PlanError
from sparsify.recipe import Recipe
from sparsify.train.settings import Settings
from sparsify.train.tasks import TASKS

BATCHES = 16
"""So many are measured on, at most."""
LABELS = ("labels", "start_positions", "end_positions")


def names_of_bindings(recipe: Recipe | None) -> list[str]:
    """Return the bindings of a recipe that are data to measure layers on."""
    keyed = recipe.keyed() if recipe is not None else []
    return sorted({name for _, each in keyed if each.restructures() for name in each.bindings()})


def calibration(recipe: Recipe | None, asked: Settings, model: nn.Module) -> dict[str, Any]:
    """Return the bindings: batches of inputs for the model, without labels.

    Raises PlanError for a flag too many, or one missing.
    """
    names = names_of_bindings(recipe)
    if asked.calibration is None:
        if names:
            raise PlanError("the recipe measures layers on data: give them as --calibration FILE (rows as in --train)")
        return {}
    if not names:
        raise PlanError("--calibration is for a --recipe that measures layers on data (`layer_drop` by importance)")
    found = TASKS[asked.task].prepare(replace(asked, train=asked.calibration), loaded=model)
    size = asked.batch_size
    most = min(len(found.train), BATCHES * size)
    batches = [
        found.collate([found.train[row] for row in range(start, min(start + size, most))])
        for start in range(0, most, size)
    ]
    inputs = [{name: value for name, value in batch.items() if name not in LABELS} for batch in batches]
    return dict.fromkeys(names, inputs)
