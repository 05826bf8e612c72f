"""RigL, SET, ITOP, GraNet and AC/DC, step by step against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe
from tests.loop import loss_of, masks_of
from tests.modifiers.regrow.reference import OPTIMIZERS, ByHand, erk, highest, lot, lowest, pair, regrow

STEPS, END, EVERY = 20, 15, 3


def step_of(model: nn.Module, optimizer: Any, manager: Manager, step: int, parts: int = 1) -> None:
    manager.on_step_begin()
    optimizer.zero_grad()
    for part in range(parts):
        (loss_of(model, step * parts + part) / parts).backward()
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()


def compare(hand: ByHand, model: nn.Module, optimizer: Any, manager: Manager, step: int) -> None:
    """The same masks, weights and moments."""
    masks = masks_of(manager)
    assert set(masks) == set(hand.masks)
    for name, mask in masks.items():
        assert torch.equal(mask, hand.masks[name]), f"step {step}: {name}"
    for (name, mine), theirs in zip(model.named_parameters(), hand.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), f"step {step}: {name}"
        ours, his = optimizer.state[mine], hand.optimizer.state[theirs]
        assert ours.keys() == his.keys()
        for key, value in ours.items():
            assert value is None or torch.equal(torch.as_tensor(value), torch.as_tensor(his[key])), f"{name} {key}"


def zeros_of(hand: ByHand, sparsity: float) -> dict[str, int]:
    shapes = {name: tuple(hand.weight(name).shape) for name in hand.names}
    return {name: round(own * math.prod(shapes[name])) for name, own in erk(shapes, sparsity).items()}


def due(step: int, end: int = END) -> bool:
    return step <= end and (step % EVERY == 0 or step == end)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rigl(optimizer: str, parts: int, mlp: nn.Module) -> None:
    """Also with the gradients of two micro-batches."""
    recipe = regrow("sparsity: 0.6, window: {end: 75%, every: 3}")
    hand, model, mine, manager = pair(mlp, optimizer, recipe, STEPS)
    zeros = zeros_of(hand, 0.6)
    assert 0 in zeros.values()
    assert any(count > 0 for count in zeros.values())
    hand.first(zeros)
    grown = 0
    for step in range(1, STEPS + 1):
        gradients = hand.train(step - 1, parts)
        if due(step):
            fraction = 0.3 / 2 * (1 + math.cos(math.pi * step / END))
            hand.exchange(zeros, fraction, lambda name: gradients[name].abs())  # noqa: B023 (called at once)
            grown += sum(int(each.sum()) for each in hand.grown.values())
        step_of(model, mine, manager, step - 1, parts)
        compare(hand, model, mine, manager, step)
        assert sum(int((~mask).sum()) for mask in masks_of(manager).values()) == sum(zeros.values())
    assert grown > 50
    manager.finalize()
    assert manager._runs[0].report() == {"regrown": grown}


def test_rigl_under_a_scaler(mlp: nn.Module) -> None:
    """Gradients are compared as they are, and those of a step that is skipped are forgotten."""
    recipe = regrow("sparsity: 0.7, scope: global, window: {end: 75%, every: 3}")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    hand, model, mine, manager = pair(mlp, "sgd momentum", recipe, STEPS, scaler=scaler)
    plain, other, theirs, control = pair(mlp, "sgd momentum", recipe, STEPS)
    del hand, plain
    attempt = 0
    while manager.step < STEPS:
        step = manager.step
        manager.on_step_begin()
        mine.zero_grad()
        spoiled = step in (2, 5) and attempt == step + (step == 5)
        scaler.scale(loss_of(model, step + 50 * spoiled)).backward()
        if spoiled:
            model.get_parameter("0.bias").grad.fill_(torch.nan)  # type: ignore[union-attr]
        manager.on_before_optimizer_step()
        scaler.step(mine)
        scaler.update()
        manager.on_step_end()
        attempt += 1
        if not spoiled:
            step_of(other, theirs, control, step)
            for name, mask in masks_of(control).items():
                assert torch.equal(mask, masks_of(manager)[name]), (step, name)
    assert attempt == STEPS + 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_set(optimizer: str, mlp: nn.Module) -> None:
    recipe = regrow("sparsity: 0.7, grow: random, seed: 7, window: {end: 75%, every: 3}")
    hand, model, mine, manager = pair(mlp, optimizer, recipe, STEPS)
    zeros = zeros_of(hand, 0.7)
    hand.first(zeros)
    for step in range(1, STEPS + 1):
        hand.train(step - 1)
        if due(step):

            def ticket(name: str, step: int = step) -> Tensor:
                weight = hand.weight(name)
                drawn = [lot(7, name, step, index) for index in range(weight.numel())]
                return torch.tensor(drawn).view(weight.shape)

            hand.exchange(zeros, 0.3 / 2 * (1 + math.cos(math.pi * step / END)), ticket)
        step_of(model, mine, manager, step - 1)
        compare(hand, model, mine, manager, step)
    manager.finalize()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_granet(optimizer: str, mlp: nn.Module) -> None:
    """The budget rises along the cubic curve, and half of what is left is exchanged at every update."""
    recipe = regrow(
        "sparsity: {from: 0.3, to: 0.8, curve: cubic}, scope: tensor, fraction: {from: 0.5, to: 0.5}, "
        "window: {end: 75%, every: 3}"
    )
    hand, model, mine, manager = pair(mlp, optimizer, recipe, STEPS)
    hand.first({name: round(0.3 * hand.weight(name).numel()) for name in hand.names})
    for step in range(1, STEPS + 1):
        gradients = hand.train(step - 1)
        if due(step):
            now = 0.8 - 0.5 * (1 - step / END) ** 3
            zeros = {name: round(now * hand.weight(name).numel()) for name in hand.names}
            hand.exchange(zeros, 0.5, lambda name: gradients[name].abs())  # noqa: B023 (called at once)
            for name, mask in hand.masks.items():
                assert int((~mask).sum()) == zeros[name]
        step_of(model, mine, manager, step - 1)
        compare(hand, model, mine, manager, step)
    assert manager.finalize().targeted.sparsity >= 0.8 - 1e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ac_dc(optimizer: str, mlp: nn.Module) -> None:
    """100 epochs of one step: compressed from 10, 20, … 70 for 5 each, dense to 85, then sparse, as published."""
    recipe = regrow(
        "sparsity: 0.9, grow: everything, scope: global, dense: 5%, window: {begin: 10%, end: 85%, every: 10%}"
    )
    hand, model, mine, manager = pair(mlp, optimizer, recipe, 100)
    compressed = {10, 20, 30, 40, 50, 60, 70, 85}
    for step in range(1, 101):
        hand.train(step - 1)
        if step in compressed:
            weights = torch.cat([hand.weight(name).flatten() for name in hand.names])
            pruned = torch.zeros_like(weights, dtype=torch.bool)
            pruned[weights.abs().topk(round(0.9 * len(weights)), largest=False).indices] = True
            parts = pruned.split([hand.weight(name).numel() for name in hand.names])
            hand.masks = {
                name: ~part.view(hand.weight(name).shape) for name, part in zip(hand.names, parts, strict=True)
            }
            hand.show()
        elif step in {15, 25, 35, 45, 55, 65, 75}:
            hand.masks = {}
            for name in hand.names:
                hand.forget(name, torch.ones_like(hand.weight(name), dtype=torch.bool))
        step_of(model, mine, manager, step - 1)
        compare(hand, model, mine, manager, step)
        sparse = bool(hand.masks)
        assert manager.sparsity == pytest.approx(0.9 if sparse else 0.0, abs=1e-3)
        assert manager.target == (None if step < 10 else pytest.approx(0.9 if sparse else 0.0))
    assert manager.last_update == 85
    manager.finalize()


def test_equal_weights_and_gradients_go_by_index() -> None:
    """The first of equals are dropped, the last grow; nothing is decided by a threshold alone."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0.0]).view(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recipe = regrow("sparsity: 0.5, scope: tensor, fraction: {from: 0.5, to: 0.5}, window: {end: 4, every: 1}")
    manager = Manager(Recipe.parse(recipe)).apply(model, optimizer, total_steps=4)
    manager.on_step_begin()
    model[0].weight.grad = torch.ones(4, 4)
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    found = masks_of(manager)["0.weight"].flatten().tolist()
    assert found == [False] * 8 + [True] * 8


def test_the_reference_ranks_as_it_says() -> None:
    values, everyone = torch.tensor([3.0, 1.0, 1.0, 2.0, 3.0]), torch.ones(5, dtype=torch.bool)
    assert lowest(values, everyone, 1).tolist() == [False, True, False, False, False]
    assert highest(values, everyone, 1).tolist() == [False, False, False, False, True]
