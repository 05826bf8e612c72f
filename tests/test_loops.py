"""Loops that write to the weights, run closures, or change the model, in ways that no hook can follow: one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, StateError
from tests.loop import STEPS, adamw, loss_of, recipe, train

KINDS = {
    "latent": {"masking": "latent"},
    "movement": {"criterion": "movement"},
    "gates": {"criterion": "hard-concrete"},
}


def applied(model: nn.Module, optimizer: torch.optim.Optimizer, kind: str) -> Manager:
    return Manager(recipe(**KINDS[kind])).apply(model, optimizer, total_steps=STEPS)


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager) -> Callable[[], Any]:
    """Return what Lightning gives to an optimizer: everything."""

    def closure() -> Tensor:
        manager.on_step_begin()
        optimizer.zero_grad()
        loss = loss_of(model, manager.step)
        loss.backward()
        manager.on_before_optimizer_step()
        return loss

    return closure


class Calling(torch.optim.AdamW):
    """Gives its closure to the class that it is made from: two calls of `step`, one step."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Running(torch.optim.AdamW):
    """Runs its closure itself."""

    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
        return super().step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer_class", [Calling, Running])
def test_a_class_that_calls_anothers_step_makes_one_step(optimizer_class: Any, kind: str, mlp: nn.Module) -> None:
    optimizer = optimizer_class(mlp.parameters(), lr=0.01)
    manager = applied(mlp, optimizer, kind)
    for step in range(STEPS):
        optimizer.step(closure_of(mlp, optimizer, manager))
        manager.on_step_end()
        assert manager.step == step + 1
    manager.finalize()


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_that_raises_can_be_run_again(kind: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = applied(mlp, optimizer, kind)
    run = closure_of(mlp, optimizer, manager)

    def failing() -> None:
        run()
        raise MemoryError

    for _ in range(STEPS):
        with pytest.raises(MemoryError):
            optimizer.step(failing)  # type: ignore[arg-type]
        optimizer.step(run)
        manager.on_step_end()
    manager.finalize()


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_with_all_hooks_is_not_run_twice(kind: str, mlp: nn.Module) -> None:
    optimizer = torch.optim.LBFGS(mlp.parameters(), lr=0.1, max_iter=4)
    manager = applied(mlp, optimizer, kind)
    with pytest.raises(HookError, match="a closure was run twice"):
        optimizer.step(closure_of(mlp, optimizer, manager))
    manager.on_step_begin()  # and the manager can go on


@torch.no_grad()
def perturb(model: nn.Module) -> list[Tensor]:
    """The first half of SAM; return the weights as they were."""
    before = [parameter.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.add_(parameter.grad, alpha=0.05)
    return before


@torch.no_grad()
def restore(model: nn.Module, before: list[Tensor], *, data: bool) -> None:
    """The second, as different implementations do it."""
    for parameter, old in zip(model.parameters(), before, strict=True):
        if data:
            parameter.data = old
        else:
            parameter.copy_(old)


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_sharpness_aware_steps_are_refused(kind: str, early: bool, data: bool, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = applied(mlp, optimizer, kind)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    if early:
        manager.on_before_optimizer_step()
    before = perturb(mlp)
    optimizer.zero_grad()
    loss_of(mlp, 0).backward()
    if not early:
        manager.on_before_optimizer_step()
    restore(mlp, before, data=data)
    with pytest.raises(HookError, match="as SAM does"):
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_decay_by_hand_is_no_perturbation(kind: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = applied(mlp, optimizer, kind)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, step).backward()
        manager.on_before_optimizer_step()
        with torch.no_grad():
            for parameter in mlp.parameters():
                parameter.mul_(0.99)
        optimizer.step()
        manager.on_step_end()
    manager.finalize()


@pytest.mark.parametrize("when", ["step", "state", "end"])
@pytest.mark.parametrize("kind", [*KINDS, "project"])
def test_a_replaced_module_is_noticed(kind: str, when: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(**KINDS.get(kind, {}))).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    assert isinstance(mlp, nn.Sequential)
    old = mlp[2]
    mlp[2] = nn.Linear(old.in_features, old.out_features)
    calls = {"step": manager.on_step_begin, "state": manager.state_dict, "end": manager.finalize}
    with pytest.raises(HookError, match="2.weight is not the model's any more"):
        calls[when]()  # type: ignore[operator]
    mlp[2] = old
    assert manager.finalize().targeted.sparsity == 0.75


@pytest.mark.parametrize("kind", [*KINDS, "project"])
def test_a_resized_parameter_is_noticed(kind: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(**KINDS.get(kind, {}))).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS - 1))
    weight = mlp.get_parameter("2.weight")
    weight.data = torch.zeros(weight.shape[0] + 1, weight.shape[1])
    for call in (manager.on_step_begin, manager.finalize, manager.state_dict):
        with pytest.raises(HookError, match=r"2\.weight was \[\d+, \d+\], and is"):
            call()  # type: ignore[operator]
    manager.detach()


class Adapter(nn.Module):
    """What peft puts in a layer's place."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def forward(self, inputs: Tensor) -> Any:
        return self.base_layer(inputs)


def test_a_wrapped_layer_is_no_replaced_one(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = applied(mlp, optimizer, "movement")
    train(mlp, optimizer, manager, range(3))
    assert isinstance(mlp, nn.Sequential)
    mlp[2] = Adapter(mlp[2])
    train(mlp, optimizer, manager, range(3, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75


def test_project_refuses_another_model_and_changes_nothing(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    shapes = [mlp.get_parameter(f"{index}.weight").shape for index in (0, 2, 4)]
    first, last = shapes[0], (shapes[2][0] + 1, shapes[2][1])
    layers = [nn.Linear(first[1], first[0]), nn.ReLU(), nn.Linear(shapes[1][1], shapes[1][0]), nn.ReLU()]
    other = nn.Sequential(*layers, nn.Linear(last[1], last[0]))
    before = other[0].weight.detach().clone()
    with pytest.raises(StateError, match=r"4\.weight is \["):
        manager.project(other)
    assert torch.equal(other[0].weight, before)
    with pytest.raises(StateError, match="takes a model, got OrderedDict"):
        manager.project(mlp.state_dict())  # type: ignore[arg-type]


def test_the_plan_says_which_weights_are_computed(mlp: nn.Module) -> None:
    layer = mlp.get_submodule("2")
    nn.utils.parametrizations.weight_norm(layer)
    manager = Manager(recipe()).apply(mlp, adamw(mlp), total_steps=STEPS)
    wanted = "2.weight: is computed by parametrizations"
    assert any(wanted in note and "remove_parametrizations" in note for note in manager.plan.notes)
