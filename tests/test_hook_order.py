"""Hooks in the wrong order or place, epochs, bindings: one clear error each."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, PlanError, Recipe
from sparsify.errors import ScoreError
from sparsify.masking.latent import Latent
from tests.loop import STEPS, WEIGHTS, adamw, loss_of, recipe, train


def test_hooks_in_the_wrong_order(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe())
    for call in (manager.on_step_begin, manager.on_before_optimizer_step, manager.on_step_end, manager.finalize):
        with pytest.raises(HookError, match=r"\(\) before apply\(\)"):
            call()  # type: ignore[operator]
    manager.apply(mlp, optimizer, total_steps=STEPS)
    with pytest.raises(HookError, match=r"apply\(\) was called before"):
        manager.apply(mlp, optimizer, total_steps=STEPS)
    with pytest.raises(HookError, match="outside a step: call on_step_begin"):
        manager.on_before_optimizer_step()
    manager.on_step_begin()
    with pytest.raises(HookError, match=r"clip_grad_norm_\(\) before on_before_optimizer_step"):
        manager.clip_grad_norm_(1.0)
    loss_of(mlp, 0).backward()
    optimizer.step()
    with pytest.raises(HookError, match=r"ran without on_step_begin\(\) and on_before_optimizer_step\(\)"):
        manager.on_step_end()


def test_a_forgotten_on_step_begin_is_noticed(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    loss_of(mlp, 0).backward()
    optimizer.step()
    with pytest.raises(HookError, match="ran without"):
        manager.on_step_end()


def test_nothing_after_finalize(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    with pytest.raises(HookError, match=r"on_step_begin\(\) after finalize"):
        manager.on_step_begin()
    with pytest.raises(HookError, match=r"finalize\(\) after finalize"):
        manager.finalize()


def test_a_wrong_steps_per_epoch_is_found_at_the_end_of_the_first_epoch(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 0, end: 1 epoch}")).apply(mlp, optimizer, steps_per_epoch=6, epochs=2)
    manager.on_epoch_begin(0)
    train(mlp, optimizer, manager, range(5))
    with pytest.raises(HookError, match="this epoch had 5 optimizer steps, but apply\\(\\) was told steps_per_epoch=6"):
        manager.on_epoch_end()


def test_a_right_steps_per_epoch(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 0, end: 1 epoch}")).apply(mlp, optimizer, steps_per_epoch=6, epochs=2)
    for epoch in range(2):
        manager.on_epoch_begin(epoch)
        train(mlp, optimizer, manager, range(6))
        manager.on_epoch_end()
    manager.finalize()


def test_bindings_are_declared(mlp: nn.Module) -> None:
    text = "version: 1\nbindings: {teacher: {description: the dense model}}\n" + recipe().dump().removeprefix(
        "version: 1\n"
    )
    with pytest.raises(PlanError, match=r"the recipe needs 'teacher' \(the dense model\): give it as apply"):
        Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS)
    with pytest.raises(PlanError, match=r"unknown binding 'techer' \(did you mean 'teacher'\?\)"):
        Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS, techer=mlp)
    Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS, teacher=mlp)


def test_a_failed_apply_leaves_no_trace(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    with torch.no_grad():
        mlp.get_parameter("2.weight")[0, 0] = math.nan
    manager = Manager(recipe(sparsity="{to: 0.5, curve: constant}", window=""))
    before = mlp.get_parameter("0.weight").detach().clone()
    with pytest.raises(Exception, match="2.weight: the scores hold NaN"):
        manager.apply(mlp, optimizer)
    assert torch.equal(mlp.get_parameter("0.weight"), before)
    assert not optimizer._optimizer_step_post_hooks


def test_wrapped_optimizers_are_unwrapped(mlp: nn.Module) -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, Wrapper(optimizer), total_steps=STEPS)  # type: ignore[arg-type]
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    with pytest.raises(PlanError, match="expected a torch optimizer, got a int"):
        Manager(recipe()).apply(mlp, 3, total_steps=STEPS)  # type: ignore[arg-type]


class Passing(torch.optim.SGD):
    """An optimizer that leaves its step to its base class: torch runs the hooks of both where it has wrapped both."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("inside", [False, True])
def test_a_step_that_calls_its_base_class_is_one_step(inside: bool, mlp: nn.Module) -> None:
    """Also where everything is inside the closure, and where an earlier closure raised."""
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # torch wraps a class when it is first used
    optimizer = Passing(mlp.parameters(), lr=0.05)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)

    def closure() -> torch.Tensor:
        manager.on_step_begin()
        optimizer.zero_grad()
        loss = loss_of(mlp, manager.step)
        loss.backward()
        manager.on_before_optimizer_step()
        return loss

    def broken() -> None:
        raise MemoryError

    for step in range(STEPS):
        if not inside:
            train(mlp, optimizer, manager, range(step, step + 1))
            continue
        with pytest.raises(MemoryError):
            optimizer.step(broken)
        optimizer.step(closure)
        manager.on_step_end()
        assert manager.step == step + 1
    manager.finalize()


def test_a_closure_that_is_run_twice_is_refused_where_weights_are_latent(mlp: nn.Module) -> None:
    """The second time it would see latent weights. Two calls of the hook outside of closures are accumulation."""

    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            closure()
            closure()
            return super().step()

    def closure() -> None:
        loss_of(mlp, 0).backward()
        manager.on_before_optimizer_step()

    optimizer = Twice(mlp.parameters(), lr=0.05)
    manager = Manager(recipe(masking="latent")).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_begin()
    with pytest.raises(HookError, match="a closure was run twice in one"):
        optimizer.step(closure)
    manager.detach()
    manager = Manager(recipe(masking="latent")).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_begin()
    closure()
    closure()
    manager.on_step_end()
    assert manager.step == 0


EPOCHS = "{begin: 0, end: 1 epoch}"


def in_epochs(model: nn.Module, **options: Any) -> tuple[Manager, torch.optim.Optimizer]:
    optimizer = adamw(model)
    manager = Manager(recipe(window=EPOCHS))
    return manager.apply(model, optimizer, steps_per_epoch=6, epochs=2, **options), optimizer


def test_an_epoch_that_is_begun_again_in_its_middle_goes_on(mlp: nn.Module) -> None:
    """A loop that resumes in an epoch calls `on_epoch_begin` as for any other."""
    other = copy.deepcopy(mlp)
    manager, optimizer = in_epochs(mlp)
    manager.on_epoch_begin(0)
    train(mlp, optimizer, manager, range(2))
    manager.on_epoch_begin(0)
    train(mlp, optimizer, manager, range(2, 4))
    states = [part.state_dict() for part in (mlp, optimizer, manager)]
    assert states[2]["clock"]["epoch_attempts"] == 4
    manager, optimizer = in_epochs(other)
    for part, state in zip((other, optimizer, manager), states, strict=True):
        part.load_state_dict(state)  # type: ignore[arg-type]
    manager.on_epoch_begin(0)
    train(other, optimizer, manager, range(4, 6))
    manager.on_epoch_end()
    manager.on_epoch_begin(1)
    train(other, optimizer, manager, range(6, 11))
    with pytest.raises(HookError, match="this epoch had 5 optimizer steps"):
        manager.on_epoch_end()
    manager.on_epoch_begin(2)
    train(other, optimizer, manager, range(11, 12))
    with pytest.raises(HookError, match="this epoch had 1 optimizer steps"):
        manager.on_epoch_end()
    manager.finalize()


def test_an_epoch_begins_anew_where_the_end_of_the_last_was_not_called(mlp: nn.Module) -> None:
    manager, optimizer = in_epochs(mlp)
    for epoch in range(2):
        manager.on_epoch_begin(epoch)
        train(mlp, optimizer, manager, range(6))
    manager.on_epoch_end()
    manager.on_epoch_end()  # outside of an epoch there is nothing to check


def test_an_epoch_counts_skipped_steps_and_one_that_was_not_ended(mlp: nn.Module) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    manager, optimizer = in_epochs(mlp, scaler=scaler)
    manager.on_epoch_begin(0)
    for step in range(6):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (math.inf if step == 2 else 1)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        if step < 5:
            manager.on_step_end()
    manager.on_epoch_end()
    assert manager.step == 5


def test_gradients_that_are_made_too_late_are_noticed(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_begin()
    manager.on_before_optimizer_step()
    loss_of(mlp, 0).backward()
    optimizer.step()
    with pytest.raises(HookError, match=r"gradients were made after on_before_optimizer_step\(\): call it after"):
        manager.on_step_end()
    assert manager.step == 1
    optimizer.zero_grad()
    train(mlp, optimizer, manager, range(1, STEPS))
    manager.finalize()


def test_latent_weights_are_written_once_a_step(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are about to be ranked wait for their new masks."""
    shown: list[str] = []
    show = Latent.show

    def counting(self: Latent, mask: torch.Tensor | None) -> None:
        shown.append(self.weight.name)
        show(self, mask)

    monkeypatch.setattr(Latent, "show", counting)
    optimizer = adamw(mlp)
    manager = Manager(recipe(masking="latent")).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(9):
        shown.clear()
        train(mlp, optimizer, manager, range(step, step + 1))
        assert sorted(shown) == sorted(WEIGHTS)


def test_a_step_whose_update_fails_has_happened(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(3))
    (run,) = manager._runs

    def fails(step: int) -> None:
        assert step == 4
        raise ScoreError("the scores hold NaN values")

    with monkeypatch.context() as patch:
        patch.setattr(run, "update", fails)
        with pytest.raises(ScoreError):
            train(mlp, optimizer, manager, range(3, 4))
    assert manager.step == 4
    train(mlp, optimizer, manager, range(4, STEPS))
    manager.finalize()
