"""`model.state_dict()` at any moment: the sparse model, and nothing is disturbed."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from sparsify import Manager
from tests.loop import STEPS, adamw, loss_of, recipe, train

CRITERIA = ["magnitude", "movement", "soft-movement", "hard-concrete"]


def applied(model: nn.Module, criterion: str) -> tuple[torch.optim.Optimizer, Manager]:
    optimizer = adamw(model)
    return optimizer, Manager(recipe(criterion=criterion)).apply(model, optimizer, total_steps=STEPS)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("steps", [0, 5])
def test_a_state_within_a_step_is_that_of_before_it(mlp: nn.Module, criterion: str, steps: int) -> None:
    optimizer, manager = applied(mlp, criterion)
    train(mlp, optimizer, manager, range(steps))
    before = copy.deepcopy(mlp.state_dict())
    manager.on_step_begin()
    assert same(mlp.state_dict(), before)
    optimizer.zero_grad()
    loss_of(mlp, steps).backward()
    assert same(mlp.state_dict(), before)
    manager.on_before_optimizer_step()
    assert same(mlp.state_dict(), before), "latent weights do not get into files"
    optimizer.step()
    masks = {masked.weight.parameter_name: masked.mask for masked in manager._masks}
    for name, tensor in mlp.state_dict().items():
        if name in masks:
            assert not bool(tensor[~masks[name]].count_nonzero())
    manager.on_step_end()
    train(mlp, optimizer, manager, range(steps + 1, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75
    assert not mlp._state_dict_hooks


@pytest.mark.parametrize("criterion", CRITERIA)
def test_saving_disturbs_nothing(mlp: nn.Module, criterion: str) -> None:
    other = copy.deepcopy(mlp)
    for model, saves in ((mlp, False), (other, True)):
        optimizer, manager = applied(model, criterion)
        for step in range(STEPS):
            manager.on_step_begin()
            optimizer.zero_grad()
            if saves:
                model.state_dict()
            loss_of(model, step).backward()
            manager.on_before_optimizer_step()
            if saves:
                model.state_dict()
            optimizer.step()
            manager.on_step_end()
        manager.finalize()
    assert same(mlp.state_dict(), other.state_dict())


def test_outside_of_a_step_the_state_is_the_parameters_themselves(mlp: nn.Module) -> None:
    optimizer, manager = applied(mlp, "hard-concrete")
    train(mlp, optimizer, manager, range(5))
    for name, tensor in mlp.state_dict().items():
        assert tensor.data_ptr() == mlp.get_parameter(name).data_ptr()


def test_copies_and_pickles_of_the_model(mlp: nn.Module) -> None:
    optimizer, manager = applied(mlp, "movement")
    train(mlp, optimizer, manager, range(5))
    file = io.BytesIO()
    torch.save(mlp, file)
    file.seek(0)
    for other in (copy.deepcopy(mlp), torch.load(file, weights_only=False)):
        assert same(other.state_dict(), mlp.state_dict())
        manager.on_step_begin()
        other[0].weight.data.fill_(1.0)
        assert bool((other.state_dict()["0.weight"] == 1).all()), "a copy is nobody's"
