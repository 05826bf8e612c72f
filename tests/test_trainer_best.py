"""Which checkpoint the Trainer picks: never one below the target, unless it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback

from sparsify.integrations.transformers import SparsifyCallback, last_whole
from tests.trainers import Breaks, bert, recipe, trainer


def worse_and_worse() -> Callable[[Any], dict[str, float]]:
    """Return metrics that are best at the first evaluation."""
    calls = iter(range(1000))
    return lambda prediction: {"accuracy": 1.0 - 0.01 * next(calls)}


BEST: dict[str, Any] = {
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
}


def test_the_best_checkpoint_is_never_below_the_target(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe())
    made = trainer(bert(), tmp_path, callback, metrics=worse_and_worse(), **BEST)
    made.train()
    assert made.state.best_global_step == 8
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-6


def test_unless_it_is_told_to_pick_it(tmp_path: Path) -> None:
    model = bert()
    callback = SparsifyCallback(recipe(), best_below_target=True)
    made = trainer(model, tmp_path, callback, metrics=worse_and_worse(), **{**BEST, "eval_steps": 4, "save_steps": 4})
    made.train()
    assert made.state.best_global_step == 4
    assert callback.density is not None
    found = callback.density.targeted.sparsity
    assert 0 < found < 0.75
    zeros = sum(int((weight.tensor == 0).sum()) for plan in callback.manager.plan.modifiers for weight in plan.weights)
    assert zeros == callback.density.targeted.elements - callback.density.targeted.nonzeros


@pytest.mark.parametrize("ours_first", [True, False])
def test_early_stopping_waits_for_the_target(tmp_path: Path, ours_first: bool) -> None:
    callbacks = [SparsifyCallback(recipe()), EarlyStoppingCallback(early_stopping_patience=1)]
    made = trainer(
        bert(),
        tmp_path,
        *(callbacks if ours_first else callbacks[::-1]),
        metrics=worse_and_worse(),
        **{**BEST, "eval_steps": 1, "save_steps": 1},
    )
    made.train()
    assert made.state.best_global_step == 8
    assert made.state.global_step == 9


def test_a_resumed_run_forgets_a_best_below_the_target(tmp_path: Path) -> None:
    options = {**BEST, "eval_steps": 1, "save_steps": 1}
    metrics = worse_and_worse()
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), Breaks(5), metrics=metrics, **options).train()
    made = trainer(bert(), tmp_path, SparsifyCallback(recipe()), metrics=metrics, **options)
    made.train(resume_from_checkpoint=str(last_whole(tmp_path)))
    assert made.state.best_global_step == 8
