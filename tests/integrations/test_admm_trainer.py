"""Dense by intent in the Trainer: evaluations see the sparse copy, the training goes on with dense weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.integrations.test_distill_trainer import Rows, trainer
from tests.modifiers.distill.students import bert

RECIPE = """
version: 1
modifiers:
  - {type: prune, masking: admm, sparsity: {to: 0.5, curve: constant}, window: {begin: 0, end: 5, every: 1}}
"""


def zeros(model: Any) -> int:
    return sum(int((p == 0).sum()) for name, p in model.named_parameters() if "encoder" in name and p.dim() == 2)


class Look(TrainerCallback):
    """Counts zeros in the model at every step, and within every evaluation."""

    def __init__(self) -> None:
        self.training: list[int] = []
        self.evaluation: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.training.append(zeros(model))

    def on_prediction_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.evaluation.append(zeros(model))


def test_evaluations_see_the_sparse_copy(tmp_path: Path) -> None:
    look, model = Look(), bert()
    targeted = sum(p.numel() for name, p in model.named_parameters() if "encoder" in name and p.dim() == 2)
    made = trainer(
        tmp_path, SparsifyCallback(Recipe.parse(RECIPE)), look, model=model, eval_strategy="steps", eval_steps=1, eval_dataset=Rows(),
        per_device_eval_batch_size=24,
    )  # fmt: skip
    made.train()
    assert look.training == [0] * 4 + [targeted // 2] * 2, "dense until the fifth step"
    assert look.evaluation == [targeted // 2] * 6
    assert "evaluate" not in vars(made), "the Trainer has its own back"
