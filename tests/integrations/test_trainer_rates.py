"""In the Trainer: its scheduler and its log keep their learning rate; the effective one stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.trainers import RECIPE, STEPS, bert, trainer

WITH = RECIPE + "  - {type: learning_rate, rate: 4e-3, curve: linear, end: 8}\n"


def logged(folder: Path, recipe: str, **options: Any) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    model = bert()
    made = trainer(model, folder, SparsifyCallback(Recipe.parse(recipe)), logging_steps=1, **options)
    made.train()
    return [entry for entry in made.state.log_history if "loss" in entry], [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
def test_both_rates_are_logged(max_grad_norm: float, tmp_path: Path) -> None:
    without, theirs = logged(tmp_path / "without", RECIPE, max_grad_norm=max_grad_norm)
    found, ours = logged(tmp_path / "with", WITH, max_grad_norm=max_grad_norm)
    assert [entry["learning_rate"] for entry in found] == [entry["learning_rate"] for entry in without]
    effective = [entry.get("effective_learning_rate") for entry in found]
    assert effective == pytest.approx([*(4e-3 * (1 - step / 8) for step in range(8)), *[None] * (STEPS - 8)])
    assert not any("effective_learning_rate" in entry for entry in without)
    assert any(not torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
