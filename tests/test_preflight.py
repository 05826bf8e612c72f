"""What must hold before a recipe is applied, and what `apply` says of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, PlanError, Recipe
from tests.loop import STEPS, adamw, recipe, train

KINDS = [
    {"sparsity": "{to: 0.5, curve: one-shot}", "window": "{begin: 0}"},
    {"sparsity": "0.5"},
    {"sparsity": "0.5", "criterion": "movement"},
    {"sparsity": "0.5", "criterion": "hard-concrete"},
    {"sparsity": "", "criterion": "existing", "window": "{begin: 0}"},
]


@pytest.mark.parametrize("fields", KINDS)
def test_weights_that_are_not_there(mlp: nn.Module, fields: dict[str, str]) -> None:
    model = mlp.to("meta")
    with pytest.raises(
        PlanError, match=r"0\.weight, .*: the weights are not there \(on the meta device, or offloaded\)"
    ):
        Manager(recipe(**fields)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=STEPS)


def test_weights_of_a_penalty_that_are_not_there(mlp: nn.Module) -> None:
    model = mlp.to("meta")
    penalty = Recipe.parse('version: 1\nmodifiers:\n  - {type: penalty, targets: "*", norm: l2, strength: 1}\n')
    with pytest.raises(PlanError, match="the weights are not there"):
        Manager(penalty).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=STEPS)


def test_an_optimizer_of_another_model(mlp: nn.Module) -> None:
    for given in (adamw(copy.deepcopy(mlp)), [adamw(mlp), adamw(copy.deepcopy(mlp))]):
        with pytest.raises(PlanError, match="the AdamW given to apply\\(\\) holds none of the model's parameters"):
            Manager(recipe()).apply(mlp, given, total_steps=STEPS)


def test_the_same_optimizer_twice_or_none(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    with pytest.raises(PlanError, match="the same optimizer twice"):
        Manager(recipe()).apply(mlp, [optimizer, optimizer], total_steps=STEPS)
    with pytest.raises(PlanError, match="was given no optimizer"):
        Manager(recipe()).apply(mlp, [], total_steps=STEPS)


class TwoPoints(torch.optim.SGD):
    """Keeps another copy of the weights, as schedule-free optimizers do."""

    def train(self) -> None:
        """Swap in the weights where gradients are taken."""

    def eval(self) -> None:
        """Swap in the average."""


def test_an_optimizer_with_another_copy_of_the_weights(mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match="TwoPoints keeps another copy of the weights"):
        Manager(recipe()).apply(mlp, TwoPoints(mlp.parameters(), lr=0.1), total_steps=STEPS)


def test_the_real_schedule_free(mlp: nn.Module) -> None:
    schedulefree: Any = pytest.importorskip("schedulefree")
    optimizer = schedulefree.AdamWScheduleFree(mlp.parameters(), lr=1e-2)
    with pytest.raises(PlanError, match="AdamWScheduleFree keeps another copy of the weights"):
        Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)


def test_weights_that_no_optimizer_trains_are_noted(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp[0].parameters(), lr=0.1)  # type: ignore[index]
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    assert "2.weight, 4.weight: pruned, but trained by no optimizer given to apply()" in manager.plan.notes
    manager = Manager(recipe()).apply(mlp, adamw(mlp), total_steps=STEPS)
    assert not manager.plan.notes


def test_apply_anew_takes_over(mlp: nn.Module) -> None:
    """As when a cell of a notebook is run again after Ctrl-C."""
    optimizer = adamw(mlp)
    first = Manager(recipe(criterion="hard-concrete")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, first, range(5))
    before = [parameter.detach().clone() for parameter in mlp.parameters()]
    first.on_step_begin()
    assert not all(torch.equal(a, b) for a, b in zip(before, mlp.parameters(), strict=True)), "gates are sampled"
    second = Manager(recipe(criterion="hard-concrete")).apply(mlp, optimizer, total_steps=STEPS)
    for mine, theirs in zip(before, mlp.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    from sparsify import HookError

    with pytest.raises(HookError, match="another manager was applied to the same weights"):
        first.on_step_begin()
    first.detach()
    train(mlp, optimizer, second, range(STEPS))
    second.finalize()


def test_managers_of_other_weights_go_on(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    managers = [Manager(recipe(targets=f'"{name}"')).apply(mlp, optimizer, total_steps=STEPS) for name in ("0", "2")]
    for _ in range(STEPS):
        for manager in managers:
            manager.on_step_begin()
        optimizer.zero_grad()
        mlp(torch.randn(4, 16)).square().mean().backward()
        for manager in managers:
            manager.on_before_optimizer_step()
        optimizer.step()
        for manager in managers:
            manager.on_step_end()
    for manager in managers:
        assert manager.finalize().targeted.sparsity == 0.75
