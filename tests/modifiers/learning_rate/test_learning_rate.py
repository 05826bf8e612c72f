"""The recipe's learning rate is there while the optimizer steps; schedulers, states and users see their own."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, PlanError, Recipe, StateError
from tests.loop import loss_of, train

STEPS = 10
OURS = "type: learning_rate, begin: 2, end: 8, curve: linear, to: 0.4"
"""1, 0.9, 0.8, … in steps 2 to 7."""


def multiple(step: int) -> float | None:
    return 1 - (step - 2) / 10 if 2 <= step < 8 else None


def recipe_of(*modifiers: str) -> Recipe:
    return Recipe.parse("version: 1\nmodifiers:\n" + "".join(f"  - {{{text}}}\n" for text in modifiers))


class Watched(torch.optim.SGD):
    """SGD that keeps the learning rates with which it stepped."""

    broken = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
        self.seen.append([float(group["lr"]) for group in self.param_groups])
        if self.broken:
            raise MemoryError("out of memory in optimizer.step()")
        return super().step()


def groups(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.02}]  # type: ignore[index]


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


SCHEDULERS = {
    "chainable": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    "closed": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.3, 0.1], total_steps=STEPS + 1),
}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_never_sees_it(name: str, early: bool, mlp: nn.Module) -> None:
    """Whether it steps before or after `on_step_end`."""
    free = Watched(groups(copy.deepcopy(mlp)), momentum=0.9)
    wanted, scheduler = [], SCHEDULERS[name](free)
    initial = [float(group["initial_lr"]) for group in free.param_groups]
    for _ in range(STEPS):
        wanted.append(rates(free))
        free.step()
        scheduler.step()

    optimizer = Watched(groups(mlp), momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    manager = Manager(recipe_of(OURS)).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        assert rates(optimizer) == wanted[step]
        manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, step).backward()
        manager.on_before_optimizer_step()
        assert rates(optimizer) == wanted[step]
        optimizer.step()
        assert rates(optimizer) == wanted[step]
        if early:
            scheduler.step()
        manager.on_step_end()
        if not early:
            scheduler.step()
        factor = multiple(step)
        right = wanted[step] if factor is None else [rate * factor for rate in initial]
        assert optimizer.seen[step] == pytest.approx(right)
        assert manager.learning_rate == (None if factor is None else pytest.approx(right[0]))
    manager.finalize()
    assert manager.learning_rate is None


def test_it_is_a_schedule_like_any_other(mlp: nn.Module) -> None:
    """The same weights as under a scheduler of torch with the same factors."""
    other = copy.deepcopy(mlp)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01)
    manager = Manager(recipe_of("type: learning_rate, curve: cosine, warmup: 20%"))
    train(mlp, optimizer, manager.apply(mlp, optimizer, total_steps=STEPS), range(STEPS))

    def factor(step: int) -> float:
        return (step + 1) / 3 if step < 2 else 1 + (0 - 1) * ((1 - math.cos(math.pi * ((step - 2) / 8))) / 2)

    theirs = torch.optim.AdamW(other.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(theirs, factor)
    for step in range(STEPS):
        train(other, theirs, None, range(step, step + 1))
        scheduler.step()
    for one, two in zip(mlp.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


def test_an_absolute_rate_keeps_the_ratios_of_all_groups(mlp: nn.Module) -> None:
    one, other = Watched(groups(mlp)), Watched(mlp[4].parameters(), lr=0.5)
    manager = Manager(recipe_of("type: learning_rate, rate: 1e-3, curve: constant, from: 2"))
    manager.apply(mlp, [one, other], total_steps=STEPS)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    one.step()
    other.step()
    manager.on_step_end()
    assert one.seen == [pytest.approx([2e-3, 4e-4])]
    assert other.seen == [pytest.approx([1e-2])]


def test_a_group_that_is_added_has_its_own(mlp: nn.Module) -> None:
    optimizer = Watched(groups(mlp))
    manager = Manager(recipe_of(OURS)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(3))
    optimizer.add_param_group({"params": mlp[4].parameters(), "lr": 1.0})
    train(mlp, optimizer, manager, range(3, 5))
    assert optimizer.seen[-1] == pytest.approx([0.08, 0.016, 0.8])
    assert rates(optimizer) == [0.1, 0.02, 1.0]


def test_a_rate_that_is_a_tensor_stays_that_tensor(mlp: nn.Module) -> None:
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=torch.tensor(0.1), foreach=False)
    mine = optimizer.param_groups[0]["lr"]
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(mine)))
    manager = Manager(recipe_of(OURS)).apply(mlp, optimizer, total_steps=STEPS)
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(mine)))
    train(mlp, optimizer, manager, range(4))
    assert optimizer.param_groups[0]["lr"] is mine
    assert seen == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.09])
    assert float(mine) == pytest.approx(0.1)


def test_stages_have_schedules_of_their_own(mlp: nn.Module) -> None:
    text = (
        "version: 1\nstages:\n"
        "  - {name: one, length: 4 steps, modifiers: [{type: learning_rate}]}\n"
        "  - {name: two, modifiers: [{type: learning_rate, from: 0.5, curve: constant, begin: 2}]}\n"
    )
    optimizer = Watched(mlp.parameters(), lr=0.1)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    wanted = [0.1, 0.075, 0.05, 0.025, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
    assert [rate for (rate,) in optimizer.seen] == pytest.approx(wanted)


# ---------------------------------------------------------------------- whatever happens, the user's rate is back


def ready(mlp: nn.Module, *, scaler: Any = None) -> tuple[Manager, Watched]:
    """Return a training right before the optimizer's step, with a rate that is ours."""
    optimizer = Watched(groups(mlp), momentum=0.9)
    manager = Manager(recipe_of(OURS)).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    train(mlp, optimizer, manager, range(4))
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 4).backward()
    manager.on_before_optimizer_step()
    return manager, optimizer


def test_after_an_exception_in_the_step(mlp: nn.Module) -> None:
    manager, optimizer = ready(mlp)
    optimizer.broken = True
    with pytest.raises(MemoryError):
        optimizer.step()
    assert [group["lr"] for group in optimizer.state_dict()["param_groups"]] == [0.1, 0.02], "people save after Ctrl-C"
    optimizer.broken = False
    manager.on_step_begin()
    assert rates(optimizer) == [0.1, 0.02]
    train(mlp, optimizer, manager, range(4, STEPS))
    assert rates(optimizer) == [0.1, 0.02]
    manager.finalize()


@pytest.mark.parametrize("end", ["on_step_end", "detach", "state_dict", "on_step_begin"])
def test_after_a_step_that_did_not_come(end: str, mlp: nn.Module) -> None:
    manager, optimizer = ready(mlp)
    getattr(manager, end)()
    optimizer.seen.clear()
    optimizer.step()  # a stray one
    assert optimizer.seen == [[0.1, 0.02]]
    assert rates(optimizer) == [0.1, 0.02]


def test_after_a_step_that_a_scaler_skipped(mlp: nn.Module) -> None:
    optimizer = Watched(groups(mlp), momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    manager = Manager(recipe_of(OURS)).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    for attempt in range(5):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, attempt)).backward()  # type: ignore[no-untyped-call]
        if attempt == 3:
            mlp[0].weight.grad.fill_(torch.inf)
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        manager.on_step_end()
        assert rates(optimizer) == pytest.approx([0.1 * 0.5 ** (attempt + 1), 0.02 * 0.5 ** (attempt + 1)])
    assert [first for first, _ in optimizer.seen] == pytest.approx([0.1, 0.05, 0.1, 0.09])


def test_within_a_closure_that_calls_the_hook(mlp: nn.Module) -> None:
    optimizer = Watched(groups(mlp))
    manager = Manager(recipe_of(OURS.replace("begin: 2", "begin: 0"))).apply(mlp, optimizer, total_steps=STEPS)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(mlp, 0)
        loss.backward()
        manager.on_before_optimizer_step()
        return loss

    for _ in range(2):
        manager.on_step_begin()
        optimizer.step(closure)
        assert rates(optimizer) == [0.1, 0.02]
        manager.on_step_end()
    assert optimizer.seen == [pytest.approx([0.1, 0.02]), pytest.approx([0.1 * 0.925, 0.02 * 0.925])]


def test_what_others_write_within_the_step_stays(mlp: nn.Module) -> None:
    manager, optimizer = ready(mlp)
    optimizer.broken = True
    with pytest.raises(MemoryError):
        optimizer.step()
    optimizer.broken = False
    optimizer.param_groups[0]["lr"] = 7.0
    manager.on_step_end()
    assert rates(optimizer) == [7.0, 0.02]


def test_a_second_manager_on_the_optimizer(mlp: nn.Module) -> None:
    """Each takes the other's for nobody's."""
    optimizer = Watched(groups(mlp))
    one = Manager(recipe_of("type: learning_rate, from: 0.5, curve: constant")).apply(mlp, optimizer, total_steps=STEPS)
    two = Manager(recipe_of("type: learning_rate, from: 0.25, curve: constant")).apply(mlp, optimizer, total_steps=4)
    for step in range(4):
        for manager in (one, two):
            manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, step).backward()
        for manager in (one, two):
            manager.on_before_optimizer_step()
        optimizer.step()
        assert rates(optimizer) == [0.1, 0.02]
        for manager in (one, two):
            manager.on_step_end()
    two.finalize()
    train(mlp, optimizer, one, range(4, 6))
    assert [first for first, _ in optimizer.seen] == pytest.approx([0.025] * 4 + [0.05] * 2)


# ---------------------------------------------------------------------- states


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_resume_at_every_step(stop: int, mlp: nn.Module) -> None:
    def training() -> tuple[nn.Module, Watched, Any, Manager]:
        model = copy.deepcopy(mlp)
        optimizer = Watched(groups(model), momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return model, optimizer, scheduler, Manager(recipe_of(OURS)).apply(model, optimizer, total_steps=STEPS)

    def run(parts: tuple[nn.Module, Watched, Any, Manager], steps: range) -> None:
        for step in steps:
            train(parts[0], parts[1], parts[3], range(step, step + 1))
            parts[2].step()

    whole = training()
    run(whole, range(stop))
    saved = [copy.deepcopy(part.state_dict()) for part in whole]
    run(whole, range(stop, STEPS))
    again = training()
    again[1].param_groups[0]["lr"] = again[1].param_groups[0]["initial_lr"] = 9.0  # the state knows better
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    run(again, range(stop, STEPS))
    assert again[1].seen == whole[1].seen[stop:]
    for one, two in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"initial\.0: is missing"),
        ({"0": {"0": 0.1, "1": 0.02, "2": 1.0}}, r"initial\.0\.2: is not known here"),
        ({"0": {"0": -0.1}}, "a learning rate is not negative"),
        ({"0": {"0": "fast"}}, "expected a finite number"),
        ([], "expected a mapping"),
    ],
)
def test_a_wrong_state(wrong: Any, message: str, mlp: nn.Module) -> None:
    optimizer = Watched(groups(mlp))
    manager = Manager(recipe_of(OURS)).apply(mlp, optimizer, total_steps=STEPS)
    state = manager.state_dict()
    state["modifiers"]["learning_rate"]["initial"] = wrong
    with pytest.raises(StateError, match=message):
        manager.load_state_dict(state)


# ---------------------------------------------------------------------- what follows it


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("follow", [True, False])
def test_scores_follow_the_rate_that_is_in_force(follow: bool, first: bool, mlp: nn.Module) -> None:
    """Wherever they stand in the file."""
    prune = (
        (
            f"type: prune, name: p, targets: '0', criterion: {{type: movement, learning_rate: 0.05, follow: {follow}}}, "
            "sparsity: 0.5, window: {begin: 8, end: 10}"
        )
        .replace("True", "true")
        .replace("False", "false")
    )
    texts = [OURS + ", rate: 0.3", prune]
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    manager = Manager(recipe_of(*(texts if first else texts[::-1]))).apply(mlp, optimizer, total_steps=STEPS)
    index = 1 if first else 0
    for step in range(STEPS - 1):
        train(mlp, optimizer, manager, range(step, step + 1))
        scheduler.step()
        factor = multiple(step)
        wanted = 0.05 * ((1 / (1 + step) if factor is None else factor) if follow else 1.0)
        scores = manager._runs[index].optimizer  # type: ignore[attr-defined]
        assert scores.param_groups[0]["lr"] == pytest.approx(wanted), step


def test_a_rate_needs_something_to_be_a_multiple_of(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.0)
    with pytest.raises(PlanError, match="the first parameter group has a learning rate of 0"):
        Manager(recipe_of("type: learning_rate, rate: 0.1")).apply(mlp, optimizer, total_steps=STEPS)
    optimizer.param_groups[0]["lr"] = 0.1
    text = (
        "version: 1\nstages: [{name: one, length: 2 steps, modifiers: [{type: freeze, targets: '0'}]}, "
        "{name: two, modifiers: [{type: learning_rate, rate: 0.1}]}]\n"
    )
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(1))
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(HookError, match="the first parameter group has a learning rate of 0"):
        train(mlp, optimizer, manager, range(1, 2))


def test_an_optimizer_without_a_rate(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(PlanError, match="the SGD has no learning rate to set"):
        Manager(recipe_of("type: learning_rate")).apply(mlp, optimizer, total_steps=STEPS)
