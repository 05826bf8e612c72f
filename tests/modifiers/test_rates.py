"""Scores follow the learning rate of the group that trains their weight; they stand still where it skips."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparsify import Manager
from sparsify.modifiers.prune.gated import GatedRun
from sparsify.modifiers.prune.learned import LearnedRun
from sparsify.modifiers.rate import Rate
from tests.learning import CRITERIA, run_of, start
from tests.loop import STEPS, WEIGHTS, loss_of, recipe, train

SCHEDULES = {
    "0.weight": lambda step: 1 / (1 + step),
    "2.weight": lambda step: min(step / 4, 1.0),
    "4.weight": lambda step: 1.0,
}
RATES = {"0.weight": 0.01, "2.weight": 0.03, "4.weight": 0.002}


def optimizers_of(model: nn.Module, several: bool) -> list[torch.optim.Optimizer]:
    """Return optimizers of one group for each linear layer: in one optimizer, or in two."""
    groups = [{"params": list(model[index].parameters()), "lr": RATES[f"{index}.weight"]} for index in (0, 2, 4)]
    return [torch.optim.AdamW(some) for some in ([groups[:1], groups[1:]] if several else [groups])]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "criterion", ["{type: movement, learning_rate: 0.05}", "{type: movement, optimizer: sgd, learning_rate: 0.05}"]
)
def test_every_tensor_follows_its_own_group(criterion: str, several: bool, mlp: nn.Module) -> None:
    optimizers = optimizers_of(mlp, several)
    names = iter(WEIGHTS)
    schedules = [[SCHEDULES[next(names)] for _ in each.param_groups] for each in optimizers]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(each, some) for each, some in zip(optimizers, schedules, strict=True)
    ]
    manager = Manager(recipe(criterion=criterion)).apply(mlp, optimizers, total_steps=STEPS)
    run = run_of(manager)
    assert run.optimizer is not None
    for step in range(6):
        before = {name: scores.values.detach().clone() for name, scores in run.scores.items()}
        manager.on_step_begin()
        mlp.zero_grad()
        loss_of(mlp, step).backward()
        manager.on_before_optimizer_step()
        pulls = {
            name: scores.values.grad.clone() for name, scores in run.scores.items() if scores.values.grad is not None
        }
        for each, scheduler in zip(optimizers, schedulers, strict=True):
            each.step()
            scheduler.step()  # a scheduler may step before the hook
        manager.on_step_end()
        found = {
            name: group["lr"]
            for group in run.optimizer.param_groups
            for value in group["params"]
            for name, scores in run.scores.items()
            if scores.values is value
        }
        wanted = {name: 0.05 * SCHEDULES[name](step) for name in WEIGHTS}
        assert found == pytest.approx(wanted)
        for name, scores in run.scores.items():
            moved = before[name] - scores.values.detach()
            if "sgd" in criterion:
                torch.testing.assert_close(moved, wanted[name] * pulls[name], rtol=1e-3, atol=1e-7)
            assert bool(moved.any()) == (wanted[name] > 0)


@pytest.mark.parametrize("follow", [True, False])
def test_a_rate_that_starts_at_zero_is_followed_by_nothing(follow: bool, mlp: nn.Module) -> None:
    """Set by hand, so that nothing in the optimizer tells how high it will rise."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.0)
    manager, _ = start(mlp, f"{{type: movement, learning_rate: 0.05, follow: {str(follow).lower()}}}", optimizer)
    run = run_of(manager)
    assert run.optimizer is not None
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * step
        train(mlp, optimizer, manager, range(step, step + 1))
        assert run.optimizer.param_groups[0]["lr"] == 0.05


def test_a_factor_is_the_rate_now_by_the_first() -> None:
    group = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    rate = Rate(group, 0)
    rate.begin()
    group.param_groups[0]["lr"] = 0.025
    rate.read(follow=True)
    assert rate.factor == pytest.approx(0.25)
    rate.read(follow=False)
    assert rate.factor == 1.0
    group.param_groups[0]["initial_lr"] = 0.2
    rate.begin()
    assert rate.initial == 0.2, "a scheduler that has begun already says where"


def noises_of(run: LearnedRun) -> list[float]:
    return [controller.noise for controller in run.steering.controllers] if isinstance(run, GatedRun) else []


@pytest.mark.parametrize("criterion", [*CRITERIA.values()], ids=list(CRITERIA))
def test_scores_of_an_optimizer_that_skips_do_not_move(criterion: str, mlp: nn.Module) -> None:
    """One of two optimizers finds gradients that are not finite, so the scaler lets it skip; the other steps."""
    one = torch.optim.SGD(mlp[0].parameters(), lr=0.05)
    other = torch.optim.SGD(mlp[2:].parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    manager = Manager(recipe(criterion=criterion)).apply(mlp, [one, other], total_steps=STEPS, scaler=scaler)
    run = run_of(manager)
    for step, bad in enumerate((False, True, False)):
        before = {name: scores.values.detach().clone() for name, scores in run.scores.items()}
        noises = noises_of(run)
        bias = mlp[0].bias.detach().clone()
        manager.on_step_begin()
        mlp.zero_grad()
        scaler.scale(loss_of(mlp, step)).backward()
        if bad:
            mlp[0].bias.grad[0] = math.inf
        manager.on_before_optimizer_step()
        scaler.step(one)
        scaler.step(other)
        scaler.update()
        manager.on_step_end()
        assert manager.step == step + 1
        assert torch.equal(mlp[0].bias, bias) == bad
        moved = {name: not torch.equal(scores.values, before[name]) for name, scores in run.scores.items()}
        assert noises_of(run) == noises or not bad, "nothing is learned of a step that is half done"
        assert moved == {"0.weight": not bad, "2.weight": True, "4.weight": True}


@pytest.mark.parametrize("scores", ["movement", ""])
def test_a_fused_optimizer_that_skips_without_our_scaler_has_not_stepped(scores: str, mlp: nn.Module) -> None:
    """Nobody tells us of the scaler, and gradients are gone when we are asked: the optimizer itself says so."""
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    manager = Manager(recipe(criterion=scores)).apply(mlp, optimizer, total_steps=STEPS)
    done = 0
    for step in range(6):
        bad = step in (1, 2)
        before = [parameter.detach().clone() for parameter in mlp.parameters()]
        manager.on_step_begin()
        scaler.scale(loss_of(mlp, step) * (math.inf if bad else 1)).backward()
        scaler.unscale_(optimizer)
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        manager.on_step_end()
        done += not bad
        assert manager.step == done
        assert manager.state_dict()["clock"]["attempts"] == step + 1
        assert all(map(torch.equal, before, mlp.parameters())) == bad
