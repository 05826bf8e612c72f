"""Trainings that break off, wherever: the model is sparse as it was, what was taken over is given back, one can go on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import Trainer, TrainerCallback

from sparsify import HookError, PlanError, Recipe, SparsityError, StateError
from sparsify.integrations.transformers import SparsifyCallback
from sparsify.lock import FILE
from tests.trainers import CRITERIA, RECIPE, STEPS, Breaks, Rows, Stop, bert, recipe, same, trainer


class BrokenError(Exception):
    """What the user's code raises."""


class Remembers(TrainerCallback):
    """Keeps the weights as they were after the last step."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.weights = model, copy.deepcopy(model.state_dict())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.weights = copy.deepcopy(self.model.state_dict())


class Raises(TrainerCallback):
    """Raises at an event, in the step after step `after`."""

    def __init__(self, event: str, after: int, error: BaseException) -> None:
        def act(args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= after:
                raise error

        setattr(self, event, act)


class RaisesInside(TrainerCallback):
    """Raises within a hook of the model, once, in the step after step `after`."""

    def __init__(self, after: int, error: BaseException, register: Callable[[Callable[..., None]], Any]) -> None:
        self.after, self.error, self.register, self.handle = after, error, register, None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.after and self.handle is None:
            self.handle = self.register(self.fail)

    def fail(self, *_: Any) -> None:
        self.handle.remove()
        raise self.error


def in_forward(model: nn.Module, after: int, error: BaseException) -> TrainerCallback:
    return RaisesInside(after, error, model.classifier.register_forward_pre_hook)


def in_backward(model: nn.Module, after: int, error: BaseException) -> TrainerCallback:
    return RaisesInside(after, error, model.bert.embeddings.word_embeddings.weight.register_hook)


PLACES: dict[str, Callable[[nn.Module, int, BaseException], TrainerCallback]] = {
    "forward": in_forward,
    "backward": in_backward,
    "step begin": lambda model, after, error: Raises("on_step_begin", after, error),
    "between batches": lambda model, after, error: Raises("on_substep_end", after, error),
    "before the optimizer": lambda model, after, error: Raises("on_pre_optimizer_step", after, error),
}


def given_back(made: Trainer, callback: SparsifyCallback, folder: Path) -> None:
    """Check that nothing of ours is left on the Trainer, its optimizer and its folder."""
    assert made.args.max_grad_norm == 0.05
    assert "clip_grad_norm_" not in made.accelerator.__dict__
    optimizer = made.optimizer.optimizer
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not (folder / FILE).exists()
    for weight, mask in ((m.weight, m.mask) for m in callback.manager._masks):
        assert bool((weight.tensor[~mask] == 0).all())


ERRORS = [BrokenError("broken"), KeyboardInterrupt(), torch.OutOfMemoryError("CUDA out of memory.")]
BROKEN = [
    *((place, kind, error, False) for place in PLACES for kind in CRITERIA for error in ERRORS),
    *((place, "gates", ERRORS[0], True) for place in PLACES),
]


@pytest.mark.parametrize(("place", "kind", "error", "late"), BROKEN)
def test_an_exception_before_the_optimizers_step_changes_nothing(
    tmp_path: Path, place: str, kind: str, error: BaseException, late: bool
) -> None:
    """The weights are those after the step before, with deterministic gates; also where the callback was added late."""
    model = bert()
    callback, remembers = SparsifyCallback(Recipe.parse(CRITERIA[kind])), Remembers(model)
    broken = PLACES[place](model, 4, error)
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "num_train_epochs": 2}
    if late:
        made = trainer(model, tmp_path, broken, remembers, **options)
        made.add_callback(callback)
    else:
        made = trainer(model, tmp_path, callback, broken, remembers, **options)
    with pytest.raises(type(error)) as raised:
        made.train()
    assert raised.value is error
    assert made.state.global_step == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, remembers.weights[name]), name
    given_back(made, callback, tmp_path)
    made.remove_callback(broken)
    made.train()
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-6


@pytest.mark.parametrize("kind", CRITERIA)
def test_an_optimizer_that_raises_leaves_no_latent_weights_in_the_model(tmp_path: Path, kind: str) -> None:
    model = bert()
    callback = SparsifyCallback(Recipe.parse(CRITERIA[kind]))
    made = trainer(model, tmp_path, callback)
    made.create_optimizer()

    def fail(*_: Any) -> None:
        if made.state.global_step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = made.optimizer.register_step_post_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        made.train()
    handle.remove()
    given_back(made, callback, tmp_path)
    made.train()
    assert callback.density is not None


@pytest.mark.parametrize(
    "event", ["on_optimizer_step", "on_step_end", "on_log", "on_epoch_begin", "on_train_begin", "on_train_end"]
)
def test_an_exception_between_steps(tmp_path: Path, event: str) -> None:
    callback = SparsifyCallback(Recipe.parse(CRITERIA["movement"]))
    broken = Raises(event, 0, BrokenError())
    made = trainer(bert(), tmp_path, callback, broken)
    with pytest.raises(BrokenError):
        made.train()
    given_back(made, callback, tmp_path)


def test_a_later_training_without_the_callback_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing noticed that the training before broke off: a Trainer of an unknown kind."""
    model = bert()
    callback, broken = SparsifyCallback(recipe()), in_forward(model, 4, BrokenError())
    made = trainer(model, tmp_path, callback, broken)
    del made.train, made._run_epoch
    monkeypatch.setattr("sparsify.integrations.transformers.callback.watch", lambda *_: None)
    with pytest.raises(BrokenError):
        made.train()
    assert made.args.max_grad_norm == 0.05
    assert "clip_grad_norm_" in made.accelerator.__dict__
    for gone in (callback, broken):
        made.remove_callback(gone)
    asked = []
    before = Accelerator.clip_grad_norm_

    def clip(self: Accelerator, parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
        asked.append(max_norm)
        return before(self, parameters, max_norm, norm_type)

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", clip)
    made.train()
    assert asked == [0.05] * STEPS


def test_a_restart_with_smaller_batches_begins_from_deterministic_weights(tmp_path: Path) -> None:
    """`auto_find_batch_size` catches the error and begins again: sampled gates are not baked in, nor is clipping lost."""
    model = bert()
    callback, remembers = SparsifyCallback(Recipe.parse(CRITERIA["gates"])), Remembers(model)
    out_of_memory = in_forward(model, 4, RuntimeError("CUDA out of memory."))
    begun: list[bool] = []

    class Begins(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begun.append(all(torch.equal(t, remembers.weights[n]) for n, t in model.state_dict().items()))

    options = {"auto_find_batch_size": True, "save_strategy": "steps", "save_steps": 2}
    made = trainer(model, tmp_path, callback, out_of_memory, remembers, Begins(), **options)
    made.train()
    assert begun == [True, True]
    assert made.state.train_batch_size < 4
    assert callback.density is not None
    assert abs(callback.density.targeted.sparsity - 0.75) < 1e-6
    given_back(made, callback, tmp_path)


def test_a_recipe_that_does_not_fit_takes_nothing_over(tmp_path: Path) -> None:
    model = bert()
    before = copy.deepcopy(model)
    long = SparsifyCallback(Recipe.parse(RECIPE.replace("end: 8", "end: 80")))
    made = trainer(model, tmp_path / "out", long)
    with pytest.raises(PlanError, match="80"):
        made.train()
    given_back(made, long, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    same(model, before)


@pytest.mark.parametrize("how", ["damaged", "another recipe"])
def test_a_resume_that_is_refused_takes_nothing_over(tmp_path: Path, how: str) -> None:
    options = {"save_strategy": "steps", "save_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        trainer(bert(), tmp_path, SparsifyCallback(recipe()), Breaks(4), **options).train()
    if how == "damaged":
        (tmp_path / "checkpoint-3" / "sparsify.pt").write_bytes(b"short")
    callback = SparsifyCallback(Recipe.parse(RECIPE.replace("0.75", "0.5")))
    made = trainer(bert(), tmp_path, callback, **options)
    with pytest.raises(StateError):
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    given_back(made, callback, tmp_path)


def test_a_model_that_falls_short_gives_back_what_was_taken(tmp_path: Path) -> None:
    callback = SparsifyCallback(recipe())
    made = trainer(bert(), tmp_path, callback, Stop(4))
    with pytest.raises(SparsityError, match="training ended after 4 steps"):
        made.train()
    given_back(made, callback, tmp_path)


def test_an_evaluation_that_raises_is_the_users_own_error(tmp_path: Path) -> None:
    """The model is then what `manager.sparsity` says, and can be trained again."""

    def evaluate(model: Any) -> dict[str, float]:
        raise BrokenError("the evaluation broke")

    callback = SparsifyCallback(Recipe.parse(CRITERIA["gates"]), evaluate=evaluate)
    made = trainer(bert(), tmp_path, callback)
    with pytest.raises(BrokenError, match="the evaluation broke"):
        made.train()
    given_back(made, callback, tmp_path)
    weights = [weight.tensor for plan in callback.manager.plan.modifiers for weight in plan.weights]
    zeros = sum(int((tensor == 0).sum()) for tensor in weights) / sum(tensor.numel() for tensor in weights)
    assert zeros == pytest.approx(callback.manager.sparsity, abs=1e-3)
    callback.evaluate = None
    made.train()
    assert callback.density is not None


def test_compute_metrics_that_raises_is_the_users_own_error(tmp_path: Path) -> None:
    def metrics(prediction: Any) -> dict[str, float]:
        raise BrokenError

    callback = SparsifyCallback(Recipe.parse(CRITERIA["gates"]))
    made = trainer(bert(), tmp_path, callback, metrics=metrics, eval_strategy="steps", eval_steps=5)
    with pytest.raises(BrokenError):
        made.train()
    given_back(made, callback, tmp_path)


def test_a_trainer_that_clips_in_a_way_of_its_own_is_refused(tmp_path: Path) -> None:
    class Own(Trainer):
        def _clip_grad_norm(self, model: nn.Module) -> Any:
            return nn.utils.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)

    callback = SparsifyCallback(recipe())
    args = trainer(bert(), tmp_path).args
    made = Own(bert(), args, train_dataset=Rows(), callbacks=[callback])
    with pytest.raises(HookError, match="clipped before they were masked"):
        made.train()
    given_back(made, callback, tmp_path)


def test_a_training_without_clipping_is_not_clipped(tmp_path: Path) -> None:
    ours, theirs = bert(), bert()
    trainer(ours, tmp_path, SparsifyCallback(recipe()), max_grad_norm=0.0).train()
    trainer(theirs, tmp_path, SparsifyCallback(recipe()), max_grad_norm=1e9).train()
    same(ours, theirs)


def test_the_norm_that_is_logged_is_that_of_the_masked_gradients(tmp_path: Path) -> None:
    norms: list[float] = []

    class Norm(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norms.append(float(nn.utils.get_total_norm(gradients)))

    made = trainer(bert(), tmp_path, SparsifyCallback(recipe()), Norm(), max_grad_norm=1e9, logging_steps=1)
    made.train()
    logged = [entry["grad_norm"] for entry in made.state.log_history if "grad_norm" in entry]
    assert logged == pytest.approx(norms)
