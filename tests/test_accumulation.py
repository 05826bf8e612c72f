"""Gradient accumulation as Accelerate does it: everything inside `accumulate()`, the hooks too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager
from tests.loop import STEPS, adamw, loss_of, recipe, train

CRITERIA = ["magnitude", "movement", "soft-movement", "hard-concrete"]
MICRO = 3


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("criterion", CRITERIA)
def test_everything_inside_accumulate(mlp: nn.Module, criterion: str) -> None:
    from accelerate import Accelerator

    guarded, optimizer = copy.deepcopy(mlp), None
    optimizer = adamw(guarded)
    manager = Manager(recipe(criterion=criterion)).apply(guarded, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        for micro in range(MICRO):
            (loss_of(guarded, MICRO * step + micro) / MICRO).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        optimizer.zero_grad()
        manager.on_step_end()
    manager.finalize()

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=MICRO)
    model, prepared = accelerator.prepare(mlp, adamw(mlp))
    manager = Manager(recipe(criterion=criterion)).apply(model, prepared, total_steps=STEPS)
    for batch in range(MICRO * STEPS):
        with accelerator.accumulate(model):
            manager.on_step_begin()
            accelerator.backward(loss_of(model, batch))
            manager.on_before_optimizer_step()
            prepared.step()
            prepared.zero_grad()
            manager.on_step_end()
    assert manager.step == STEPS
    manager.finalize()
    for mine, theirs in zip(guarded.parameters(), mlp.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
        assert torch.equal(mine == 0, theirs == 0)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_all_hooks_for_every_micro_batch(mlp: nn.Module, criterion: str) -> None:
    """Right for masks alone; refused where gradients are read."""
    guarded = copy.deepcopy(mlp)
    models = []
    for model, every in ((guarded, False), (mlp, True)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        manager = Manager(recipe(criterion=criterion)).apply(model, optimizer, total_steps=STEPS)
        try:
            for batch in range(2 * STEPS):
                last = batch % 2 == 1
                manager.on_step_begin()
                (loss_of(model, batch) / 2).backward()
                if every or last:
                    manager.on_before_optimizer_step()
                if last:
                    optimizer.step()
                    optimizer.zero_grad()
                if every or last:
                    manager.on_step_end()
        except HookError as error:
            assert every
            assert criterion != "magnitude"
            assert "again over the same gradients" in str(error) or "call it again" in str(error)
            return
        manager.finalize()
        models.append(model)
    assert criterion == "magnitude"
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


def test_three_transactions_are_one_after_an_accumulation_that_ends_early(mlp: nn.Module) -> None:
    """The last batches of an epoch may be too few for a step: the next epoch goes on."""
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 0, end: 8}")).apply(mlp, optimizer, steps_per_epoch=4, epochs=3)
    for _ in range(3):
        manager.on_epoch_begin()
        train(mlp, optimizer, manager, range(4))
        manager.on_step_begin()
        loss_of(mlp, 0).backward()
        manager.on_epoch_end()
    manager.finalize()
