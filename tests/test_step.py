"""The step is a transaction: every sentence of SPEC A, tried."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, PlanError, SparsityError
from sparsify.masking import budget
from tests.loop import batch, loss_of, recipe, train, zeros

STEPS = 14
WEIGHTS = ("0.weight", "2.weight", "4.weight")

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of most tests."""
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def wanted_zeros(model: nn.Module, step: int, sparsity: float = 0.75, begin: int = 2, end: int = 10) -> dict[str, int]:
    """Compute the cubic schedule by hand, with updates every two steps."""
    if step < begin:
        return dict.fromkeys(WEIGHTS, 0)
    last = min(step - (step - begin) % 2, end)
    now = sparsity - sparsity * (1 - (last - begin) / (end - begin)) ** 3
    return {name: budget(now, model.get_parameter(name).numel()) for name in WEIGHTS}


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


def test_bfloat16_autocast(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(mlp, step)
        loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
        assert {name: zeros(mlp, name) for name in WEIGHTS} == wanted_zeros(mlp, step + 1)
    manager.finalize()


def test_hooks_refuse_an_open_autocast_region(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        manager.on_step_begin()
        loss_of(mlp, 0).backward()
        with pytest.raises(HookError, match=r"on_before_optimizer_step\(\) inside an autocast region"):
            manager.on_before_optimizer_step()
    manager.on_before_optimizer_step()
    optimizer.step()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(HookError, match=r"on_step_end\(\) inside"):
        manager.on_step_end()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_dtypes(dtype: torch.dtype, mlp: nn.Module) -> None:
    mlp = mlp.to(dtype)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    assert {name: zeros(mlp, name) for name in WEIGHTS} == wanted_zeros(mlp, STEPS)


@pytest.mark.parametrize("who", ["manager", "loop", "both"])
@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_with_skipped_steps(fused: bool, who: str, mlp: nn.Module) -> None:
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS, scaler=None if who == "loop" else scaler)
    bad = {3, 4, STEPS - 1}
    for step in range(STEPS):
        before = manager.step
        kept = [parameter.detach().clone() for parameter in mlp.parameters()]
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (math.inf if step in bad else 1)).backward()
        if who != "manager":
            scaler.unscale_(optimizer)
        manager.on_before_optimizer_step()
        manager.clip_grad_norm_(1.0)
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
        skipped = step in bad
        assert manager.step == before + (not skipped)
        if skipped:
            assert all(torch.equal(a, b) for a, b in zip(kept, mlp.parameters(), strict=True))
        assert {name: zeros(mlp, name) for name in WEIGHTS} == wanted_zeros(mlp, manager.step)
    manager.finalize()


def test_scaled_training_equals_unscaled(mlp: nn.Module) -> None:
    plain = copy.deepcopy(mlp)
    optimizer = adamw(plain)
    manager = Manager(recipe()).apply(plain, optimizer, total_steps=STEPS)
    train(plain, optimizer, manager, range(STEPS))
    optimizer = adamw(mlp)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    for mine, theirs in zip(mlp.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_scaler_wants_one_call_a_step(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    scaler = torch.amp.GradScaler("cpu")
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    manager.on_step_begin()
    scaler.scale(loss_of(mlp, 0)).backward()
    manager.on_before_optimizer_step()
    with pytest.raises(HookError, match="is called once per optimizer step, right before it"):
        manager.on_before_optimizer_step()


def test_a_last_update_that_only_skipped_steps_kept_is_made_at_the_end(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    manager = Manager(recipe(window="{begin: 2, end: 14, every: 2}"))
    manager.apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (math.inf if step == 13 else 1)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    assert manager.step == 13
    assert zeros(mlp, "0.weight") < 384
    density = manager.finalize()
    assert zeros(mlp, "0.weight") == 384
    assert density.targeted.sparsity == 0.75


def test_a_loop_that_ends_early_raises(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(7))
    with pytest.raises(SparsityError, match="training ended after 7 steps; the recipe's last update is due at step 10"):
        manager.finalize()


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


# ---------------------------------------------------------------- a model that is sparse already


def half_sparse(model: nn.Module) -> nn.Module:
    """Prune a model to 50 % in one shot."""
    fields = {"sparsity": "{to: 0.5, curve: constant}", "window": "{begin: 0}"}
    Manager(recipe(**fields)).apply(model, adamw(model)).finalize()
    assert zeros(model, "0.weight") == 256
    return model


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_continue_and_tighten(scope: str, mlp: nn.Module) -> None:
    before = {name: half_sparse(mlp).get_parameter(name) == 0 for name in WEIGHTS}
    optimizer = adamw(mlp)
    manager = Manager(recipe(sparsity="{from: existing, to: 0.75}", scope=scope)).apply(
        mlp, optimizer, total_steps=STEPS
    )
    with torch.no_grad():
        zero = {name: mlp.get_parameter(name).detach().clone() == 0 for name in WEIGHTS}
    train(mlp, optimizer, manager, range(2))
    assert manager.target == pytest.approx(zeros_of(mlp) / elements_of(mlp), abs=0.01)
    train(mlp, optimizer, manager, range(2, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75
    assert zero.keys() == before.keys()


def zeros_of(model: nn.Module) -> int:
    """Count the zeros of all targeted tensors."""
    return sum(zeros(model, name) for name in WEIGHTS)


def elements_of(model: nn.Module) -> int:
    """Count the elements of all targeted tensors."""
    return sum(model.get_parameter(name).numel() for name in WEIGHTS)


def test_tighten_from_the_first_step_keeps_every_zero(mlp: nn.Module) -> None:
    before = {name: half_sparse(mlp).get_parameter(name) == 0 for name in WEIGHTS}
    optimizer = adamw(mlp)
    manager = Manager(recipe(sparsity="{from: existing, to: 0.75}", window="{begin: 0, end: 10, every: 2}"))
    manager.apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        assert all(bool((mlp.get_parameter(name)[zero] == 0).all()) for name, zero in before.items())
    assert manager.finalize().targeted.sparsity == 0.75


def test_lock(mlp: nn.Module) -> None:
    before = {name: half_sparse(mlp).get_parameter(name) == 0 for name in WEIGHTS}
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01)
    manager = Manager(recipe(criterion="existing", sparsity="", window="")).apply(mlp, optimizer)
    train(mlp, optimizer, manager, range(STEPS))
    density = manager.finalize()
    assert density.targeted.sparsity == 0.5
    for name, zero in before.items():
        assert torch.equal(mlp.get_parameter(name) == 0, zero)


def test_one_shot_needs_no_steps(mlp: nn.Module) -> None:
    fields = {"sparsity": "{to: 0.6, curve: constant}", "window": ""}
    manager = Manager(recipe(**fields)).apply(mlp, adamw(mlp))
    assert zeros(mlp, "0.weight") == round(0.6 * 512)
    manager.finalize()


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


# ---------------------------------------------------------------- wrong order, wrong place


def test_hooks_in_the_wrong_order(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe())
    for call in (manager.on_step_begin, manager.on_before_optimizer_step, manager.on_step_end, manager.finalize):
        with pytest.raises(HookError, match=r"\(\) before apply\(\)"):
            call()  # type: ignore[operator]
    manager.apply(mlp, optimizer, total_steps=STEPS)
    with pytest.raises(HookError, match=r"apply\(\) was called before"):
        manager.apply(mlp, optimizer, total_steps=STEPS)
    with pytest.raises(HookError, match="outside a step: call on_step_begin"):
        manager.on_before_optimizer_step()
    manager.on_step_begin()
    with pytest.raises(HookError, match=r"clip_grad_norm_\(\) before on_before_optimizer_step"):
        manager.clip_grad_norm_(1.0)
    loss_of(mlp, 0).backward()
    optimizer.step()
    with pytest.raises(HookError, match=r"ran without on_step_begin\(\) and on_before_optimizer_step\(\)"):
        manager.on_step_end()


def test_a_forgotten_on_step_begin_is_noticed(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    loss_of(mlp, 0).backward()
    optimizer.step()
    with pytest.raises(HookError, match="ran without"):
        manager.on_step_end()


def test_nothing_after_finalize(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    with pytest.raises(HookError, match=r"on_step_begin\(\) after finalize"):
        manager.on_step_begin()
    with pytest.raises(HookError, match=r"finalize\(\) after finalize"):
        manager.finalize()


def test_a_wrong_steps_per_epoch_is_found_at_the_end_of_the_first_epoch(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 0, end: 1 epoch}")).apply(mlp, optimizer, steps_per_epoch=6, epochs=2)
    manager.on_epoch_begin(0)
    train(mlp, optimizer, manager, range(5))
    with pytest.raises(HookError, match="this epoch had 5 optimizer steps, but apply\\(\\) was told steps_per_epoch=6"):
        manager.on_epoch_end()


def test_a_right_steps_per_epoch(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(window="{begin: 0, end: 1 epoch}")).apply(mlp, optimizer, steps_per_epoch=6, epochs=2)
    for epoch in range(2):
        manager.on_epoch_begin(epoch)
        train(mlp, optimizer, manager, range(6))
        manager.on_epoch_end()
    manager.finalize()


def test_bindings_are_declared(mlp: nn.Module) -> None:
    from sparsify import Recipe

    text = "version: 1\nbindings: {teacher: {description: the dense model}}\n" + recipe().dump().removeprefix(
        "version: 1\n"
    )
    with pytest.raises(PlanError, match=r"the recipe needs 'teacher' \(the dense model\): give it as apply"):
        Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS)
    with pytest.raises(PlanError, match=r"unknown binding 'techer' \(did you mean 'teacher'\?\)"):
        Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS, techer=mlp)
    Manager(Recipe.parse(text)).apply(mlp, adamw(mlp), total_steps=STEPS, teacher=mlp)


def test_a_failed_apply_leaves_no_trace(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    with torch.no_grad():
        mlp.get_parameter("2.weight")[0, 0] = math.nan
    manager = Manager(recipe(sparsity="{to: 0.5, curve: constant}", window=""))
    before = mlp.get_parameter("0.weight").detach().clone()
    with pytest.raises(Exception, match="2.weight: the scores hold NaN"):
        manager.apply(mlp, optimizer)
    assert torch.equal(mlp.get_parameter("0.weight"), before)
    assert not optimizer._optimizer_step_post_hooks


def test_wrapped_optimizers_are_unwrapped(mlp: nn.Module) -> None:
    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, Wrapper(optimizer), total_steps=STEPS)  # type: ignore[arg-type]
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    with pytest.raises(PlanError, match="expected a torch optimizer, got a int"):
        Manager(recipe()).apply(mlp, 3, total_steps=STEPS)  # type: ignore[arg-type]
