"""Errors on the way: the model stays sparse and consistent, and the training can go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, Recipe, ScoreError, SparsityError
from tests.loop import STEPS, adamw, latent_of, loss_of, masks_of, recipe, train, zeros


def written(text: str) -> Recipe:
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{{text}}}\n")


@pytest.mark.parametrize("kind", [{}, {"masking": "latent"}, {"criterion": "movement"}, {"criterion": "hard-concrete"}])
def test_a_score_error_leaves_the_last_masks(mlp: nn.Module, kind: dict[str, str]) -> None:
    optimizer = adamw(mlp)
    fields = {"sparsity": "{from: 0.5, to: 0.8}", "window": "{begin: 0, end: 9, every: 3}"} | kind
    manager = Manager(recipe(**fields)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(4))
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 4).backward()
    gradient = mlp.get_parameter("2.weight").grad
    assert gradient is not None
    gradient.fill_(float("nan"))
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    with pytest.raises(ScoreError, match="the scores hold NaN"):
        train(mlp, optimizer, manager, range(5, STEPS))
    for name, mask in masks_of(manager).items():
        assert not bool(mlp.get_parameter(name)[~mask].count_nonzero())
    assert manager.sparsity > 0.49 or "concrete" in fields.get("criterion", "")
    assert not manager._masks.sampled
    if not manager._masks.latents:
        with torch.no_grad():
            for parameter in mlp.parameters():
                parameter.nan_to_num_(0.01)
        optimizer.state.clear()
        train(mlp, optimizer, manager, range(manager.step, STEPS))
        assert manager.finalize().targeted.sparsity == pytest.approx(0.8, abs=0.01)


def test_other_modifiers_of_the_step_go_on(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    text = (
        "version: 1\nmodifiers:\n"
        '  - {type: prune, name: a, targets: "0", sparsity: {from: 0.2, to: 0.5}, window: {end: 4}}\n'
        '  - {type: prune, name: b, targets: "2", sparsity: {from: 0.2, to: 0.5}, window: {end: 4}}\n'
    )
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(3))
    first = manager._runs[0]
    update = first.update

    def broken(step: int) -> None:
        raise ScoreError("broken")

    first.update = broken  # type: ignore[method-assign]
    with pytest.raises(ScoreError, match="broken"):
        train(mlp, optimizer, manager, range(3, 4))
    first.update = update  # type: ignore[method-assign]
    assert zeros(mlp, "2.weight") == mlp.get_parameter("2.weight").numel() // 2, "b had its last update"
    train(mlp, optimizer, manager, range(4, STEPS))
    assert zeros(mlp, "0.weight") == mlp.get_parameter("0.weight").numel() // 2, "a's last update is made later"
    manager.finalize()


@pytest.mark.parametrize("criterion", ["soft-movement", "hard-concrete"])
def test_an_evaluation_that_raises_only_raises(mlp: nn.Module, criterion: str) -> None:
    calls: list[int] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        calls.append(1)
        raise RuntimeError("the evaluation broke")

    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion=criterion)).apply(mlp, optimizer, total_steps=STEPS, evaluate=evaluate)
    with pytest.raises(RuntimeError, match="the evaluation broke"):
        train(mlp, optimizer, manager, range(STEPS))
    assert manager.step == 10
    train(mlp, optimizer, manager, range(10, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75
    assert calls == [1]
    assert mlp.training


@pytest.mark.parametrize("masking", ["project", "latent"])
def test_every_last_update_that_skipped_steps_prevented_is_made(mlp: nn.Module, masking: str) -> None:
    text = (
        "version: 1\nmodifiers:\n"
        f'  - {{type: prune, name: a, targets: "0", masking: {masking}, sparsity: 0.5, window: {{end: 12, every: 2}}}}\n'
        f'  - {{type: prune, name: b, targets: "2", masking: {masking}, sparsity: 0.5, window: {{end: 14, every: 2}}}}\n'
        '  - {type: prune, name: c, targets: "0", criterion: existing, window: {begin: 13}}\n'
    )
    optimizer = adamw(mlp)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (float("inf") if step in (3, 7, 11) else 1.0)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    assert manager.step == 11
    manager.finalize()
    for name in ("0.weight", "2.weight"):
        assert zeros(mlp, name) == mlp.get_parameter(name).numel() // 2


def test_a_penalty_without_gradients(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(written('type: penalty, targets: "*", norm: l2, strength: 1.0')).apply(
        mlp, optimizer, total_steps=STEPS
    )

    def steps(count: int) -> None:
        for _ in range(count):
            manager.on_step_begin()
            loss_of(mlp, 0).backward()
            optimizer.zero_grad()
            manager.on_before_optimizer_step()
            optimizer.step()
            manager.on_step_end()

    steps(4)
    with pytest.raises(SparsityError, match="penalty needs the gradients of its weights, and never found any"):
        manager.finalize(partial=True)
    with pytest.raises(HookError, match="penalty needs the gradients of its weights, and found none in 8 steps"):
        steps(8)


def test_an_optimizer_that_was_replaced(mlp: nn.Module) -> None:
    for criterion in ("magnitude", "movement"):
        manager = Manager(recipe(criterion=criterion)).apply(mlp, adamw(mlp), total_steps=STEPS)
        with pytest.raises(HookError, match="the weights were changed, but not by the AdamW given to apply"):
            train(mlp, adamw(mlp), manager, range(STEPS))
        manager.detach()


class Wrapped:
    """Steps a copy of the optimizer, and zeroes the gradients of the model."""

    def __init__(self, model: nn.Module, other: Any) -> None:
        self.step, self.zero_grad = other.step, model.zero_grad


def test_an_optimizer_that_was_copied(mlp: nn.Module) -> None:
    import copy

    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    with pytest.raises(HookError, match="8 times in a row on_step_end\\(\\) was called without a step"):
        train(mlp, Wrapped(mlp, copy.deepcopy(optimizer)), manager, range(STEPS))  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["magnitude", "movement"])
def test_the_step_after_on_step_end(mlp: nn.Module, criterion: str) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion=criterion)).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    manager.on_step_end()
    optimizer.step()
    moved = mlp.get_parameter("0.weight").detach().clone()
    with pytest.raises(HookError, match=r"optimizer\.step\(\) ran without"):
        manager.on_step_begin()
    assert manager.step == 0
    train(mlp, optimizer, manager, range(STEPS))
    assert manager.finalize().targeted.sparsity == 0.75
    assert not torch.equal(moved, mlp.get_parameter("0.weight"))


def test_a_forgotten_on_step_end(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    with pytest.raises(HookError, match=r"on_step_end\(\) was not called after optimizer\.step\(\)"):
        manager.on_step_begin()
    assert manager.step == 1, "it was completed all the same"
    train(mlp, optimizer, manager, range(1, STEPS))
    manager.finalize()


def test_out_of_memory_in_the_optimizer(mlp: nn.Module) -> None:
    class Breaking(torch.optim.SGD):
        fails = False

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].add_(1.0)
                raise MemoryError("out of memory")
            return super().step(closure)

    optimizer = Breaking(mlp.parameters(), lr=0.05)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(6))
    before = {name: parameter.detach().clone() for name, parameter in mlp.named_parameters()}
    latent = latent_of(manager, "0.weight").tensor.clone()
    optimizer.fails = True
    with pytest.raises(MemoryError):
        train(mlp, optimizer, manager, range(6, 7))
    optimizer.fails = False
    manager.on_step_begin()
    for name in before:
        assert torch.equal(before[name], mlp.get_parameter(name)) or name.endswith("bias")
    assert torch.equal(latent, latent_of(manager, "0.weight").tensor)
    train(mlp, optimizer, manager, range(6, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75


def test_finalize_again_after_an_error(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    with pytest.raises(SparsityError, match="training ended after 5 steps"):
        manager.finalize()
    assert 0 < manager.finalize(partial=True).targeted.sparsity < 0.75
