"""What a model may be: compiled, tied, frozen, averaged, shared by managers, of any layout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparsify import Manager
from tests.loop import STEPS, WEIGHTS, adamw, batch, loss_of, recipe, train, wanted_zeros, zeros


def test_torch_compile_never_recompiles(mlp: nn.Module) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(mlp, backend=counter)
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(compiled, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        inputs, wanted = batch(step)
        (compiled(inputs) - wanted).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    assert counter.frame_count == 1
    assert list(compiled.state_dict()) == [f"_orig_mod.{name}" for name in mlp.state_dict()]
    assert [tensor.name for tensor in manager.plan.modifiers[0].tensors] == list(WEIGHTS)


def test_names_objects_and_graph_stay_the_user_s(mlp: nn.Module) -> None:
    keys, parameters, modules = list(mlp.state_dict()), list(mlp.parameters()), list(mlp.modules())
    optimizer = adamw(mlp)
    classes = [type(module) for module in modules]
    groups = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    assert list(mlp.state_dict()) == keys
    assert all(a is b for a, b in zip(mlp.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(mlp.modules(), modules, strict=True))
    assert [type(module) for module in modules] == classes
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
    assert not optimizer._optimizer_step_post_hooks


def test_tied_weights_share_one_mask() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4))
    model[2].weight = model[0].weight
    optimizer = adamw(model)
    manager = Manager(recipe()).apply(model, optimizer, total_steps=STEPS)
    train(model, optimizer, manager, range(STEPS))
    density = manager.finalize()
    assert model[2].weight is model[0].weight
    assert density.targeted.elements == 16 * 16 + 16 * 4
    assert zeros(model, "2.weight") == 192


def test_frozen_parameters_and_several_groups(mlp: nn.Module) -> None:
    mlp.get_parameter("2.weight").requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [mlp.get_parameter("0.weight")], "lr": 0.1, "weight_decay": 0.5},
            {"params": [p for n, p in mlp.named_parameters() if n not in ("0.weight", "2.weight")]},
        ],
        lr=0.01,
    )
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    frozen = mlp.get_parameter("2.weight").detach().clone()
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    weight = mlp.get_parameter("2.weight")
    assert torch.equal(weight[weight != 0], frozen[weight != 0])
    assert {name: zeros(mlp, name) for name in WEIGHTS} == wanted_zeros(mlp, STEPS)


def test_an_average_of_weights_is_projected(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    ema = torch.optim.swa_utils.AveragedModel(mlp, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        ema.update_parameters(mlp)
    dense = zeros(ema.module, "0.weight")
    assert dense < 384, "an average of iterates under changing masks is denser than the model"
    manager.project(ema)
    assert torch.equal(ema.module.get_parameter("0.weight") == 0, mlp.get_parameter("0.weight") == 0)
    manager.finalize()
    manager.project(ema)


def test_two_managers_in_one_process(mlp: nn.Module) -> None:
    other = nn.Sequential(nn.Linear(16, 4))
    first, second = adamw(mlp), torch.optim.SGD(other.parameters(), lr=0.1)
    one = Manager(recipe()).apply(mlp, first, total_steps=STEPS)
    two = Manager(recipe(sparsity="0.5", window="{begin: 0, end: 5}")).apply(other, second, total_steps=STEPS)
    for step in range(STEPS):
        train(mlp, first, one, range(step, step + 1))
        train(other, second, two, range(step, step + 1))
    assert one.finalize().targeted.sparsity == 0.75
    assert two.finalize().targeted.sparsity == 0.5


def test_two_managers_on_parts_of_one_model(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    one = Manager(recipe(targets='"0"')).apply(mlp, optimizer, total_steps=STEPS)
    two = Manager(recipe(targets='"2"', sparsity="0.5")).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        for manager in (one, two):
            manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(mlp, step).backward()
        for manager in (one, two):
            manager.on_before_optimizer_step()
        optimizer.step()
        for manager in (one, two):
            manager.on_step_end()
    one.finalize()
    two.finalize()
    assert (zeros(mlp, "0.weight"), zeros(mlp, "2.weight"), zeros(mlp, "4.weight")) == (384, 128, 0)


@pytest.mark.parametrize("pattern", ["2:4", "{type: block, shape: [4, 1]}"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_patterns_hold_after_every_step(pattern: str, scope: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(pattern=pattern, sparsity="0.5", scope=scope)).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        weight = mlp.get_parameter("0.weight")
        if pattern == "2:4":
            assert bool(((weight != 0).view(-1, 4).sum(1) >= 2).all())
        else:
            alive = (weight != 0).view(8, 4, 16).sum(1)
            assert bool(((alive == 0) | (alive == 4)).all())
    density = manager.finalize()
    assert density.targeted.sparsity == pytest.approx(0.5, abs=4 / density.targeted.elements)
    if pattern == "2:4":
        for name in WEIGHTS:
            assert bool(((mlp.get_parameter(name) != 0).view(-1, 4).sum(1) == 2).all())


def test_transformers_conv1d_groups_run_along_inputs() -> None:
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(6, 8))  # weight [8 inputs, 6 outputs]
    fields = {"pattern": "2:4", "sparsity": "{to: 0.5, curve: constant}", "window": ""}
    Manager(recipe(**fields)).apply(model, adamw(model)).finalize()
    assert bool(((model[0].weight != 0).t().reshape(-1, 4).sum(1) == 2).all())
