"""Which checkpoint the Trainer picks: never one below the target, unless it is told to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from sparsify import PlanError, Recipe, SparsityError, StateError
from sparsify.integrations.transformers import SparsifyCallback, last_whole
from tests.trainers import CRITERIA, Breaks, Stop, bert, recipe, trainer


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


def is_the_file(model: nn.Module, folder: Path) -> None:
    """Check that the model has the weights of a checkpoint, bit by bit."""
    saved = load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("save_only_model", [False, True])
def test_the_model_is_the_checkpoint_that_was_picked(tmp_path: Path, kind: str, save_only_model: bool) -> None:
    model = bert()
    callback = SparsifyCallback(Recipe.parse(CRITERIA[kind]))
    options = {**BEST, "save_only_model": save_only_model}
    trainer(model, tmp_path, callback, metrics=worse_and_worse(), **options).train()
    is_the_file(model, tmp_path / "checkpoint-8")
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-6


@pytest.mark.parametrize("kind", CRITERIA)
def test_the_model_is_the_checkpoint_that_was_picked_below_the_target(tmp_path: Path, kind: str) -> None:
    """Also where it is from before the first mask: masks that were made later have no place in it."""
    model = bert()
    text = CRITERIA[kind].replace("begin: 1", "begin: 3")
    callback = SparsifyCallback(Recipe.parse(text), best_below_target=True)
    trainer(model, tmp_path, callback, metrics=worse_and_worse(), **BEST).train()
    is_the_file(model, tmp_path / "checkpoint-2")


def test_a_best_checkpoint_below_the_target_must_have_its_masks(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe(), best_below_target=True)
    options = {**BEST, "save_only_model": True}
    with pytest.raises(PlanError, match="best_below_target=True with save_only_model=True"):
        trainer(bert(), tmp_path, callback, metrics=worse_and_worse(), **options).train()


class Meddles(TrainerCallback):
    """Does something to a folder when the training has come to its last step."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.act()


@pytest.mark.parametrize("save_only_model", [False, True])
def test_a_best_checkpoint_that_was_deleted_meanwhile_is_named(tmp_path: Path, save_only_model: bool) -> None:
    meddles = Meddles(lambda: shutil.rmtree(tmp_path / "checkpoint-8"))
    made = trainer(
        bert(),
        tmp_path,
        SparsifyCallback(recipe()),
        meddles,
        metrics=worse_and_worse(),
        **{**BEST, "save_only_model": save_only_model},
    )
    with pytest.raises(StateError, match=r"checkpoint-8, the best checkpoint, is gone"):
        made.train()


def test_a_best_checkpoint_that_another_run_wrote_over_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    trainer(bert(), other, SparsifyCallback(recipe()), metrics=worse_and_worse(), **BEST).train()

    def swap() -> None:
        shutil.rmtree(tmp_path / "out" / "checkpoint-8")
        shutil.copytree(other / "checkpoint-8", tmp_path / "out" / "checkpoint-8")

    callbacks = [SparsifyCallback(recipe()), Meddles(swap)]
    with pytest.raises(StateError, match="checkpoint-8 is of another run"):
        trainer(bert(), tmp_path / "out", *callbacks, metrics=worse_and_worse(), **BEST).train()


@pytest.mark.parametrize("limit", [1, 2])
def test_the_best_checkpoint_outlives_the_limit(tmp_path: Path, limit: int) -> None:
    model = bert()
    options = {**BEST, "save_total_limit": limit}
    trainer(model, tmp_path, SparsifyCallback(recipe()), metrics=worse_and_worse(), **options).train()
    is_the_file(model, tmp_path / "checkpoint-8")


def cut(folder: Path, metrics: Any, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), folder, SparsifyCallback(recipe()), Breaks(11), metrics=metrics, **options).train()


def test_a_run_that_was_moved_finds_its_best_checkpoint_again(tmp_path: Path) -> None:
    metrics = worse_and_worse()
    cut(tmp_path / "here", metrics, **BEST)
    (tmp_path / "here").rename(tmp_path / "there")
    model = bert()
    made = trainer(model, tmp_path / "there", SparsifyCallback(recipe()), metrics=metrics, **BEST)
    made.train(resume_from_checkpoint=str(last_whole(tmp_path / "there")))
    assert made.state.best_model_checkpoint == str(tmp_path / "there" / "checkpoint-8")
    is_the_file(model, tmp_path / "there" / "checkpoint-8")


@pytest.mark.parametrize("how", ["deleted", "of another run"])
def test_a_best_checkpoint_that_is_gone_at_a_resume_is_forgotten(tmp_path: Path, how: str) -> None:
    """The best of what is still to come is picked."""
    metrics = worse_and_worse()
    cut(tmp_path / "out", metrics, **BEST)
    if how == "deleted":
        shutil.rmtree(tmp_path / "out" / "checkpoint-8")
    else:
        (tmp_path / "out").rename(tmp_path / "moved")
        cut(tmp_path / "out", metrics, **BEST)  # the state of the first names a folder that is now another's
        (tmp_path / "out").rename(tmp_path / "other")
        shutil.rmtree(tmp_path / "moved" / "checkpoint-8")
        (tmp_path / "moved").rename(tmp_path / "out")
    model = bert()
    made = trainer(model, tmp_path / "out", SparsifyCallback(recipe()), metrics=metrics, **BEST)
    made.train(resume_from_checkpoint=str(last_whole(tmp_path / "out")))
    assert made.state.best_global_step == 12
    is_the_file(model, tmp_path / "out" / "checkpoint-12")


def test_stopping_before_the_target_says_so_and_picks_nothing(tmp_path: Path) -> None:
    made = trainer(bert(), tmp_path, SparsifyCallback(recipe()), Stop(5), metrics=worse_and_worse(), **BEST)
    with pytest.raises(SparsityError, match="training ended after 5 steps"):
        made.train()
    assert made.state.best_model_checkpoint is None
    assert last_whole(tmp_path) == tmp_path / "checkpoint-5"
