"""Learned masks in the loops that people have: what stays the user's, and what must not change the result."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from sparsify.masking import budget
from tests.learning import CRITERIA, each_criterion, run_of, same, start
from tests.loop import STEPS, WEIGHTS, adamw, batch, latent_of, loss_of, masks_of, train, zeros
from tests.modifiers.test_matrix import clone
from tests.processes import in_two

HELD = "{type: hard-concrete, init: constant, offset: -2.6, floor: 0.4}"
"""Gates that are closed from the start, but for what the floor holds open."""

# ---------------------------------------------------------------------- what stays the user's


@each_criterion
def test_names_parameters_and_the_optimizer_stay(criterion: str, mlp: nn.Module) -> None:
    names, parameters = list(mlp.state_dict()), list(mlp.parameters())
    optimizer = adamw(mlp)
    groups = [list(map(id, group["params"])) for group in optimizer.param_groups]
    manager, _ = start(mlp, criterion, optimizer)
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    assert list(mlp.state_dict()) == names
    assert all(mine is theirs for mine, theirs in zip(mlp.parameters(), parameters, strict=True))
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == groups
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in mlp.modules())
    assert all("parametrizations" not in name for name, _ in mlp.named_modules())


@each_criterion
def test_outside_the_step_the_model_is_sparse(criterion: str, mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, criterion)
    seen = set()
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        for name, weight, mask in ((m.weight.name, m.weight, m.mask) for m in manager._masks):
            assert not bool(weight.tensor[~mask].any())
            assert not bool(torch.signbit(weight.tensor[~mask]).any()), "bitwise +0.0"
            seen.add((name, zeros(mlp, name)))
    assert len(seen) > len(WEIGHTS)
    assert sum(zeros(mlp, name) for name in WEIGHTS) == sum(
        budget(0.75, mlp.get_parameter(name).numel()) for name in WEIGHTS
    )


def test_inside_the_step_the_optimizer_sees_latent_weights(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, CRITERIA["hard"])
    train(mlp, optimizer, manager, range(6))
    weight, mask = mlp[0].weight, masks_of(manager)["0.weight"]
    assert zeros(mlp, "0.weight")
    manager.on_step_begin()
    optimizer.zero_grad()
    loss_of(mlp, 6).backward()
    assert bool(weight.grad[~mask].any()), "the gradient is dense"
    manager.on_before_optimizer_step()
    assert not bool(weight.grad[~mask].any()), "and masked for the optimizer"
    assert not bool((weight == 0).any()), "which sees the latent weights"
    optimizer.step()
    manager.on_step_end()
    assert zeros(mlp, "0.weight")


def test_a_masked_weight_returns_with_its_latent_value(mlp: nn.Module) -> None:
    """SparseML's movement froze the scores of what it had pruned, so nothing ever came back."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.01)
    manager, _ = start(mlp, "movement", optimizer, sparsity="{to: 0.5, curve: constant}")
    train(mlp, optimizer, manager, range(3))
    name, weight = "0.weight", mlp[0].weight.data
    mask = masks_of(manager)[name].clone()
    row, column = (int(index[0]) for index in (~mask).nonzero(as_tuple=True))
    latent = latent_of(manager, name).tensor[row, column].clone()
    run_of(manager).scores[name].values.data[row, column] = 1e3
    assert float(weight[row, column]) == 0
    train(mlp, optimizer, manager, range(3, 4))
    assert float(weight[row, column]) == float(latent) != 0, "masked weights have no gradient, so it is what it was"


def test_scores_have_no_weight_decay(mlp: nn.Module) -> None:
    """The reference's scores decay with torch's AdamW; ours move by their gradients alone."""
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01, weight_decay=0.5)
    manager, _ = start(mlp, CRITERIA["hard"], optimizer)
    run = run_of(manager)
    before = {name: scores.values.detach().clone() for name, scores in run.scores.items()}
    for _ in range(3):
        manager.on_step_begin()
        optimizer.zero_grad(set_to_none=False)
        (loss_of(mlp, 0) * 0).backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    assert all(torch.equal(run.scores[name].values, value) for name, value in before.items())
    assert run.optimizer is not None
    assert all(group["weight_decay"] == 0 for group in run.optimizer.param_groups)


def test_scores_follow_the_users_schedule(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 4, 1.0))  # starts at 0
    manager, _ = start(mlp, CRITERIA["hard"], optimizer)
    run, seen = run_of(manager), []
    for step in range(6):
        train(mlp, optimizer, manager, range(step, step + 1))
        assert run.optimizer is not None
        seen.append(run.optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert seen == pytest.approx([0.05 * factor for factor in (0, 0.25, 0.5, 0.75, 1, 1)])


def test_scores_are_freed_when_the_window_ends(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, CRITERIA["hard"])
    train(mlp, optimizer, manager, range(9))
    assert manager._masks.latents == len(WEIGHTS)
    train(mlp, optimizer, manager, range(9, 10))
    assert manager._masks.latents == 0
    assert not run_of(manager).scores


# ---------------------------------------------------------------------- what must not change the result


@each_criterion
def test_accumulation_equals_one_batch(criterion: str) -> None:
    models = [nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, parts in zip(models, (1, 4), strict=True):
        manager, optimizer = start(model, criterion)
        for step in range(STEPS):
            inputs, wanted = (part.double() for part in batch(step))
            optimizer.zero_grad()
            for some, other in zip(inputs.chunk(parts), wanted.chunk(parts), strict=True):
                manager.on_step_begin()
                ((model(some) - other).square().mean() / parts).backward()
                manager.on_step_end()  # no optimizer step yet: nothing happens
            manager.on_before_optimizer_step()
            optimizer.step()
            manager.on_step_end()
        manager.finalize()
    for mine, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("who", ["manager", "loop"])
@each_criterion
def test_scores_see_unscaled_gradients(criterion: str, who: str, mlp: nn.Module) -> None:
    plain = copy.deepcopy(mlp)
    manager, optimizer = start(plain, criterion)
    train(plain, optimizer, manager, range(STEPS))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    manager, optimizer = start(mlp, criterion, scaler=scaler if who == "manager" else None)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step)).backward()
        if who == "loop":
            scaler.unscale_(optimizer)
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    manager.finalize()
    assert same(mlp, plain)


@pytest.mark.parametrize("fused", [False, True])
@each_criterion
def test_a_skipped_step_changes_nothing(criterion: str, fused: bool, mlp: nn.Module) -> None:
    plain = copy.deepcopy(mlp)
    manager, optimizer = start(plain, criterion, torch.optim.AdamW(plain.parameters(), lr=0.01, fused=fused))
    train(plain, optimizer, manager, range(STEPS))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01, fused=fused)
    manager, _ = start(mlp, criterion, optimizer, scaler=scaler)
    tries = [(step, bad) for step in range(STEPS) for bad in ((True, False) if step in (0, 5, 9) else (False,))]
    for step, bad in tries:
        kept = clone(manager.state_dict())
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (math.inf if bad else 1)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
        if bad:
            now = manager.state_dict()
            assert str(now["modifiers"]) == str(kept["modifiers"])
            assert now["weights"] == kept["weights"]
    manager.finalize()
    assert same(mlp, plain)


@each_criterion
def test_bfloat16_autocast(criterion: str, mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, criterion)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(mlp, step)
        loss.backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@each_criterion
def test_models_of_other_dtypes(criterion: str, dtype: torch.dtype, mlp: nn.Module) -> None:
    model = mlp.to(dtype)
    manager, optimizer = start(model, criterion)
    kept = run_of(manager).scores["0.weight"].values.dtype
    assert kept == (torch.float32 if dtype == torch.bfloat16 else dtype), "at least float32"
    train(model, optimizer, manager, range(STEPS))
    manager.finalize()


@each_criterion
def test_compiled_models_learn_the_same(criterion: str, mlp: nn.Module) -> None:
    plain = copy.deepcopy(mlp)
    manager, optimizer = start(plain, criterion)
    train(plain, optimizer, manager, range(STEPS))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled: Any = torch.compile(mlp, backend="aot_eager")
    manager, optimizer = start(compiled, criterion)
    train(compiled, optimizer, manager, range(STEPS))
    manager.finalize()
    assert same(mlp, plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "no recompile"


@pytest.mark.parametrize("stop", range(STEPS))
@pytest.mark.parametrize("criterion", [*CRITERIA.values(), HELD], ids=[*CRITERIA, "l0 held by its floor"])
def test_resume_at_any_step(criterion: str, stop: int, mlp: nn.Module, tmp_path: Any) -> None:
    """Also where the learning rate is set by hand, so that nothing in the optimizer tells what it was at first."""

    def go_on(model: nn.Module, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / STEPS)
            train(model, optimizer, manager, range(step, step + 1))

    again = copy.deepcopy(mlp)
    manager, optimizer = start(mlp, criterion)
    go_on(mlp, 0, stop)
    parts = {"model": mlp, "optimizer": optimizer, "manager": manager}
    torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "state.pt")
    go_on(mlp, stop, STEPS)
    manager.finalize()
    found = run_of(manager).report()
    manager, optimizer = start(again, criterion)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for name, part in {"model": again, "optimizer": optimizer, "manager": manager}.items():
        part.load_state_dict(saved[name])
    go_on(again, stop, STEPS)
    manager.finalize()
    assert same(mlp, again)
    assert run_of(manager).report() == found


def test_scores_are_clipped_by_themselves(mlp: nn.Module) -> None:
    manager, _ = start(mlp, "{type: movement, max_norm: 0.001}")
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    dense = [parameter.grad.clone() for parameter in mlp.parameters()]
    manager.on_before_optimizer_step()
    gradients = [scores.values.grad for scores in run_of(manager).scores.values()]
    assert float(nn.utils.get_total_norm(gradients)) == pytest.approx(0.001, rel=1e-3)
    assert all(torch.equal(mine, parameter.grad) for mine, parameter in zip(dense, mlp.parameters(), strict=True))


@each_criterion
def test_a_closure_that_calls_the_hook_itself_is_the_plain_loop(criterion: str, mlp: nn.Module) -> None:
    """As frameworks do that make the whole step in a closure."""
    plain = copy.deepcopy(mlp)
    manager, optimizer = start(plain, criterion)
    train(plain, optimizer, manager, range(STEPS))
    manager, optimizer = start(mlp, criterion)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(mlp, manager.step)
        loss.backward()
        manager.on_before_optimizer_step()
        return loss

    for _ in range(STEPS):
        manager.on_step_begin()
        optimizer.step(closure)
        manager.on_step_end()
    manager.finalize()
    assert same(mlp, plain)


# ---------------------------------------------------------------------- starts


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [
        ("init: zero", 0.0, 0.0),
        ("init: constant, offset: 0.5", 0.5, 0.5),
        ("init: uniform, scale: 0.1, offset: 1", 0.9, 1.1),
    ],
)
def test_starts(fields: str, least: float, most: float, mlp: nn.Module) -> None:
    manager, _ = start(mlp, f"{{type: movement, {fields}}}")
    values = run_of(manager).scores["0.weight"].values.detach()
    assert least - 1e-6 <= float(values.min()) <= float(values.max()) <= most + 1e-6
    again = run_of(start(mlp, f"{{type: movement, {fields}}}")[0]).scores["0.weight"].values
    assert torch.equal(values, again), "the same in every process"


def test_a_magnitude_start_is_the_mask_of_magnitude(mlp: nn.Module) -> None:
    weight = mlp[0].weight.detach().clone()
    manager, optimizer = start(mlp, "{type: movement, learning_rate: 1e-9}", torch.optim.SGD(mlp.parameters(), lr=1e-9))
    train(mlp, optimizer, manager, range(10))
    lowest = weight.abs().flatten().argsort()[: budget(0.75, weight.numel())]
    assert not bool(masks_of(manager)["0.weight"].flatten()[lowest].any())


def test_a_tensor_of_zeros_starts_at_zero(mlp: nn.Module) -> None:
    nn.init.zeros_(mlp[0].weight)
    manager, optimizer = start(mlp, "movement")
    assert not bool(run_of(manager).scores["0.weight"].values.any())
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()


def test_two_processes_learn_what_one_does() -> None:
    """SparseML's movement could not run under DDP at all."""
    done = in_two("ddp_masks", "learned")
    lines = re.findall(r"rank \d (\w+): weights (\S+), mask bits (\d+)", done.stdout)
    assert sorted(name for name, _, _ in lines) == ["hard", "hard", "l0", "l0", "soft", "soft"], done.stderr
    assert all(float(worst) < 1e-12 and bits == "0" for _, worst, bits in lines)
