"""The step is a transaction: exact after every step, and equal to the slow loop (SPEC A)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from sparsify import Manager, SparsityError
from tests.loop import OPTIMIZERS, STEPS, WEIGHTS, adamw, loss_of, recipe, train, wanted_zeros, zeros


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_sparsity_is_exact_after_every_step(name: str, mlp: nn.Module) -> None:
    optimizer = OPTIMIZERS[name](mlp.parameters())
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        assert manager.step == step + 1
        assert {name: zeros(mlp, name) for name in WEIGHTS} == wanted_zeros(mlp, step + 1)
    manager.finalize()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_revives_nothing(name: str, mlp: nn.Module) -> None:
    """What is pruned is ranked as zero, not as what momentum or weight decay made of it in this step."""
    optimizer = OPTIMIZERS[name](mlp.parameters())
    manager = Manager(recipe(window="{begin: 2, end: 12}", pattern="2:4", sparsity="0.5"))
    manager.apply(mlp, optimizer, total_steps=STEPS)
    pruned: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        for weight, zero in pruned.items():
            assert not mlp.get_parameter(weight)[zero].any()
        pruned = {weight: mlp.get_parameter(weight).detach() == 0 for weight in WEIGHTS}


def slow_loop(model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float | None) -> None:
    """Do what the manager should do, without it: mask gradients, clip, step, mask weights."""
    masks: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for name, mask in masks.items():
            model.get_parameter(name).grad.mul_(mask)  # type: ignore[union-attr]
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        done = step + 1
        with torch.no_grad():
            for name, count in wanted_zeros(model, done).items():
                weight = model.get_parameter(name)
                if 2 <= done <= 10 and done % 2 == 0:
                    order = (weight * masks.get(name, 1)).abs().flatten().sort(stable=True).indices
                    mask = torch.ones(weight.numel())
                    mask[order[:count]] = 0
                    masks[name] = mask.view(weight.shape)
                if name in masks:
                    weight.mul_(masks[name])


@pytest.mark.parametrize("max_norm", [None, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_weights_are_those_of_the_slow_loop(name: str, max_norm: float | None, mlp: nn.Module) -> None:
    mlp = mlp.double()
    slow = copy.deepcopy(mlp)
    optimizer = OPTIMIZERS[name](mlp.parameters())
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, step).backward()
        manager.on_before_optimizer_step()
        if max_norm is not None:
            manager.clip_grad_norm_(max_norm)
        optimizer.step()
        manager.on_step_end()
    slow_loop(slow, OPTIMIZERS[name](slow.parameters()), max_norm)
    for mine, theirs in zip(mlp.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_clipping_sees_masked_gradients(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(sparsity="0.9")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(11))
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 11).backward()
    before = nn.utils.get_total_norm([p.grad for p in mlp.parameters() if p.grad is not None])
    manager.on_before_optimizer_step()
    for name in WEIGHTS:
        weight = mlp.get_parameter(name)
        assert weight.grad is not None
        assert not weight.grad[weight == 0].any()
    assert manager.clip_grad_norm_(1e9) < before


def test_masked_positions_are_positive_zero_even_over_nan(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(12))
    weight = mlp.get_parameter("0.weight")
    mask = weight == 0
    with torch.no_grad():
        weight[mask] = torch.tensor([-1.0, math.nan, -math.inf]).repeat(1000)[: int(mask.sum())]
    train(mlp, optimizer, manager, range(0))
    manager.on_step_begin()
    loss = sum(p.sum() for n, p in mlp.named_parameters() if n != "0.weight")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[union-attr]
    manager.on_before_optimizer_step()
    optimizer.step()
    manager.on_step_end()
    assert torch.equal(weight[mask].view(torch.int32), torch.zeros(int(mask.sum()), dtype=torch.int32))


def test_without_a_step_nothing_happens(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    manager.on_step_end()
    manager.on_step_begin()
    manager.on_step_end()
    assert manager.step == 0
    train(mlp, optimizer, manager, range(1))
    manager.on_step_end()
    assert manager.step == 1


@pytest.mark.parametrize("hooks", ["per step", "per micro-batch", "per micro-batch, all three"])
def test_accumulation_counts_optimizer_steps(hooks: str, mlp: nn.Module) -> None:
    mlp = mlp.double()
    whole = copy.deepcopy(mlp)
    reference = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    manager = Manager(recipe()).apply(whole, reference, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        reference.zero_grad()
        ((loss_of(whole, 2 * step) + loss_of(whole, 2 * step + 1)) / 2).backward()
        manager.on_before_optimizer_step()
        reference.step()
        manager.on_step_end()

    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.05, momentum=0.9)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    for micro in range(2 * STEPS):
        last = micro % 2 == 1
        if hooks != "per step" or not last:
            manager.on_step_begin()
        (loss_of(mlp, micro) / 2).backward()
        if last or "all three" in hooks:
            manager.on_before_optimizer_step()
        if last:
            optimizer.step()
            optimizer.zero_grad()
        if last or hooks != "per step":
            manager.on_step_end()
    assert manager.step == STEPS
    manager.finalize()
    for mine, theirs in zip(mlp.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_loop_that_ends_early_raises(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(7))
    with pytest.raises(SparsityError, match="training ended after 7 steps; the recipe's last update is due at step 10"):
        manager.finalize()
