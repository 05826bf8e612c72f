"""What the tests of learned masks share: the criteria, and a manager at work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager
from sparsify.modifiers.prune.learned import LearnedRun
from tests.loop import STEPS, adamw, recipe

CRITERIA = {
    "hard": "{type: movement, learning_rate: 0.05}",
    "soft": "{type: soft-movement, learning_rate: 0.3}",
    "l0": "{type: hard-concrete, learning_rate: 1.0}",
}
each_criterion = pytest.mark.parametrize("criterion", CRITERIA.values(), ids=list(CRITERIA))


def start(model: nn.Module, criterion: str, optimizer: Any = None, **fields: Any) -> tuple[Manager, Any]:
    """Return a manager at work on a model and the optimizer."""
    options = {key: fields.pop(key) for key in ("scaler", "evaluate", "total_steps") if key in fields}
    optimizer = optimizer or adamw(model)
    manager = Manager(recipe(criterion=criterion, **fields))
    return manager.apply(model, optimizer, **({"total_steps": STEPS} | options)), optimizer


def run_of(manager: Manager) -> LearnedRun:
    (run,) = manager._runs
    assert isinstance(run, LearnedRun)
    return run


def same(mine: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
