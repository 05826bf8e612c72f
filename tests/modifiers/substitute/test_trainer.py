"""The Trainer: a checkpoint within the window, and one after it, are gone on from to the same bits."""

from __future__ import annotations

from pathlib import Path

from sparsify import Recipe
from sparsify.integrations.transformers import SparsifyCallback
from tests.trainers import STEPS, bert, same, trainer

RECIPE = """
version: 1
modifiers:
  - {type: substitute, norms: nonorm, activations: relu, window: {begin: 1, end: 8}}
  - {type: prune, sparsity: 0.5, window: {begin: 2, end: 9}}
"""


def test_a_resume_ends_with_the_same_bits(tmp_path: Path) -> None:
    saves = {"save_strategy": "steps", "save_steps": 5, "learning_rate": 1e-3}
    whole = trainer(bert(), tmp_path / "one", SparsifyCallback(Recipe.parse(RECIPE)), **saves)
    whole.train()
    for step in (5, 10):
        checkpoint = tmp_path / "one" / f"checkpoint-{step}"
        callback = SparsifyCallback(Recipe.parse(RECIPE), checkpoint=checkpoint)
        again = trainer(bert(), tmp_path / f"from {step}", callback, **saves)
        again.train(resume_from_checkpoint=str(checkpoint))
        assert again.state.global_step == STEPS
        same(whole.model, again.model)
        assert again.model.config.hidden_act == "relu"
