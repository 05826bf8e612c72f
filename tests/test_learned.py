"""Learned masks in the loops that people have: what stays the user's, and what must not change the result."""

from __future__ import annotations

import copy
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify import HookError, Manager, Plan, PlanError, Recipe
from sparsify.masking import budget
from sparsify.modifiers.prune_gated import GatedRun
from sparsify.modifiers.prune_learned import LearnedRun
from tests.loop import STEPS, WEIGHTS, adamw, batch, loss_of, recipe, train, zeros
from tests.test_matrix import clone

CRITERIA = {
    "hard": "{type: movement, learning_rate: 0.05}",
    "soft": "{type: soft-movement, learning_rate: 0.3}",
    "l0": "{type: hard-concrete, learning_rate: 1.0}",
}
each_criterion = pytest.mark.parametrize("criterion", CRITERIA.values(), ids=list(CRITERIA))


def start(model: nn.Module, criterion: str, optimizer: Any = None, **fields: Any) -> tuple[Manager, Any]:
    """Return a manager at work on a model and the optimizer."""
    options = {key: fields.pop(key) for key in ("scaler", "evaluate", "total_steps") if key in fields}
    optimizer = optimizer or adamw(model)
    manager = Manager(recipe(criterion=criterion, **fields))
    return manager.apply(model, optimizer, **({"total_steps": STEPS} | options)), optimizer


def run_of(manager: Manager) -> LearnedRun:
    (run,) = manager._runs
    assert isinstance(run, LearnedRun)
    return run


def same(mine: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


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
        for name, weight, mask in manager._masks:
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
    weight, mask = mlp[0].weight, manager._masks["0.weight"]
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
    mask = manager._masks[name].clone()
    row, column = (int(index[0]) for index in (~mask).nonzero(as_tuple=True))
    latent = manager._masks.latent(name).tensor[row, column].clone()
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
@each_criterion
def test_resume_at_any_step(criterion: str, stop: int, mlp: nn.Module, tmp_path: Any) -> None:
    again = copy.deepcopy(mlp)
    manager, optimizer = start(mlp, criterion)
    train(mlp, optimizer, manager, range(stop))
    parts = {"model": mlp, "optimizer": optimizer, "manager": manager}
    torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "state.pt")
    train(mlp, optimizer, manager, range(stop, STEPS))
    manager.finalize()
    manager, optimizer = start(again, criterion)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for name, part in {"model": again, "optimizer": optimizer, "manager": manager}.items():
        part.load_state_dict(saved[name])
    train(again, optimizer, manager, range(stop, STEPS))
    manager.finalize()
    assert same(mlp, again)


def test_scores_are_clipped_by_themselves(mlp: nn.Module) -> None:
    manager, _ = start(mlp, "{type: movement, max_norm: 0.001}")
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    dense = [parameter.grad.clone() for parameter in mlp.parameters()]
    manager.on_before_optimizer_step()
    gradients = [scores.values.grad for scores in run_of(manager).scores.values()]
    assert float(nn.utils.get_total_norm(gradients)) == pytest.approx(0.001, rel=1e-3)
    assert all(torch.equal(mine, parameter.grad) for mine, parameter in zip(dense, mlp.parameters(), strict=True))


# ---------------------------------------------------------------------- what is refused, and what is said


def test_a_frozen_weight_is_refused(mlp: nn.Module) -> None:
    mlp[0].weight.requires_grad_(False)
    with pytest.raises(PlanError, match=r"0\.weight: is frozen, so its scores cannot be learned"):
        start(mlp, "movement")


def test_an_optimizer_without_the_weights_is_refused(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp[2:].parameters(), lr=0.1)
    with pytest.raises(PlanError, match=r"the optimizer does not train 0\.weight, so its scores cannot be learned"):
        start(mlp, "movement", optimizer)
    start(mlp, "movement")  # nothing is left behind


def test_scores_without_time_to_learn_are_refused(mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match="the window ends where the stage begins: scores have no time to learn"):
        start(mlp, "movement", sparsity="{to: 0.5, curve: one-shot}", window="{begin: 0}")


def test_one_call_a_step(mlp: nn.Module) -> None:
    manager, _ = start(mlp, "movement")
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    with pytest.raises(HookError, match="with latent weights, .* is called once per optimizer step"):
        manager.on_before_optimizer_step()


@pytest.mark.parametrize("criterion", ["soft-movement", "hard-concrete"])
def test_a_threshold_that_becomes_a_cliff_is_refused(criterion: str, mlp: nn.Module) -> None:
    """nn_pruning went from 1.0 to 0.1 in one step without a word."""
    with pytest.raises(PlanError, match="the ramp is a cliff"):
        start(mlp, criterion, sparsity="", penalty="10", window="{begin: 2, end: 10, every: 20}")


def test_the_plan_warns_of_a_zero_start_in_a_short_run(mlp: nn.Module) -> None:
    def notes(criterion: str, steps: int) -> str:
        fields = {"window": "{begin: 5%, end: 70%}"}
        return " ".join(Plan.of(recipe(criterion=criterion, **fields), mlp, total_steps=steps).notes)

    assert "scores that start at zero have 700 steps to learn" in notes("{type: movement, init: zero}", 1000)
    assert not notes("movement", 1000)
    assert not notes("{type: movement, init: zero}", 100_000)
    assert "scores cannot travel the" in notes("soft-movement", 100)
    assert not notes("soft-movement", 2000)


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
    assert not bool(manager._masks["0.weight"].flatten()[lowest].any())


def test_a_tensor_of_zeros_starts_at_zero(mlp: nn.Module) -> None:
    nn.init.zeros_(mlp[0].weight)
    manager, optimizer = start(mlp, "movement")
    assert not bool(run_of(manager).scores["0.weight"].values.any())
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()


# ---------------------------------------------------------------------- gates


def test_the_constants_of_hard_concrete_gates() -> None:
    from sparsify.criteria.hard_concrete import HardConcrete

    gate = HardConcrete()
    at_start = torch.full((1,), math.log(9.0), dtype=torch.float64)
    assert float(gate.expense(at_start)) == pytest.approx(0.978, abs=5e-4)
    assert float(gate.gates(at_start)[0]) == pytest.approx(0.98, abs=5e-4)
    edges = torch.tensor(
        [-math.log(11) - 1e-9, -math.log(11) + 1e-6, math.log(11) - 1e-6, math.log(11) + 1e-9]
    ).double()
    values = gate.gates(edges)[0].tolist()
    assert values[0] == 0 < values[1]
    assert values[2] < 1 == values[3]
    assert gate.cut(0.0) == pytest.approx(-math.log(11))
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for score in (-2.0, 0.0, math.log(9.0)):
        scores = torch.full_like(noise, score)
        opened = float((gate.sample(scores, noise)[0] > 0).double().mean())
        assert opened == pytest.approx(float(gate.expense(scores[:1])), abs=0.01)


def test_the_slopes_are_the_derivatives() -> None:
    from sparsify.criteria.hard_concrete import HardConcrete
    from sparsify.criteria.soft_movement import SoftMovement

    scores = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    noise = torch.rand(41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gate in (HardConcrete(), SoftMovement()):
        (slope,) = torch.autograd.grad(gate.expense(scores).sum(), scores)
        torch.testing.assert_close(gate.slope(scores.detach()), slope)
    for values, slopes in (HardConcrete().gates(scores), HardConcrete().sample(scores, noise)):
        (slope,) = torch.autograd.grad(values.sum(), scores)
        torch.testing.assert_close(slopes.detach(), slope)


def test_the_floor_is_exact_under_ties(mlp: nn.Module) -> None:
    """The reference's floor keeps nothing where all scores are equal."""
    criterion = "{type: soft-movement, init: constant, offset: -9, learning_rate: 1e-9, floor: 0.1}"
    manager, optimizer = start(mlp, criterion, torch.optim.SGD(mlp.parameters(), lr=0.01), sparsity="", penalty="1")
    train(mlp, optimizer, manager, range(STEPS))
    for name in WEIGHTS:
        mask = manager._masks[name]
        assert int(mask.sum()) == math.ceil(0.1 * mask.numel() - 1e-9)


def test_gates_end_binary_and_the_report_says_what_that_did(mlp: nn.Module, tmp_path: Any) -> None:
    asked: list[float] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(3)
        asked.append(float(loss_of(model, 99)))
        return {"loss": asked[-1]}

    def careful(model: nn.Module) -> dict[str, float]:
        model.eval()
        return evaluate(model)

    plain = copy.deepcopy(mlp)
    manager, optimizer = start(mlp, CRITERIA["l0"], evaluate=careful)
    train(mlp, optimizer, manager, range(9))
    gates = manager._masks.latent("0.weight").gates()
    assert gates is not None
    assert bool(((gates > 0) & (gates < 1)).any()), "fractional while it learns"
    train(mlp, optimizer, manager, range(9, STEPS))
    assert mlp.training
    manager.finalize(tmp_path)
    (found,) = (run.report() for run in manager._runs)
    assert found["metrics"] == {"at_threshold": {"loss": asked[0]}, "after": {"loss": asked[1]}}
    assert asked[0] != asked[1]
    assert found["sparsity"] == pytest.approx(0.75, abs=1e-3)
    manager, optimizer = start(plain, CRITERIA["l0"])
    train(plain, optimizer, manager, range(STEPS))
    assert same(mlp, plain), "looking changes nothing"


def test_ending_gates_by_the_threshold_alone_changes_no_output(mlp: nn.Module) -> None:
    """Open gates are multiplied into their weights: the function is the same before and after."""
    found: list[Tensor] = []
    inputs = batch(5)[0]

    def evaluate(model: nn.Module) -> dict[str, float]:
        found.append(model(inputs))
        return {}

    manager, optimizer = start(mlp, CRITERIA["l0"], evaluate=evaluate, sparsity="", penalty="1000")
    train(mlp, optimizer, manager, range(10))
    assert 0 < manager.sparsity < 1
    assert torch.equal(found[0], found[1])
    assert torch.equal(mlp(inputs), found[1])


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("pattern", ["unstructured", "{type: block, shape: [4, 4]}"])
def test_the_controller_lands_within_a_point(pattern: str, scope: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    manager, _ = start(
        model, "soft-movement", optimizer, pattern=pattern, scope=scope, finish="threshold", sparsity="0.8",
        targets='["0", "2"]', window="{begin: 5%, end: 90%}", total_steps=700,
    )  # fmt: skip
    train(model, optimizer, manager, range(700))
    density = manager.finalize()
    (run,) = manager._runs
    assert isinstance(run, GatedRun)
    assert abs(density.targeted.sparsity - 0.8) <= 0.011
    assert abs(run.report()["sparsity_at_threshold"] - 0.8) < 0.05, "the controller did it, not the last cut"
    assert all(value != 0 for value in run.report()["lambda"].values())


def test_a_threshold_that_misses_is_brought_within_a_point(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, "{type: soft-movement, learning_rate: 1e-6}", finish="threshold")
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    (found,) = (run.report() for run in manager._runs)
    assert found["sparsity_at_threshold"] < 0.1
    assert found["sparsity"] == pytest.approx(0.74, abs=0.01)


def test_roles_share_a_penalty() -> None:
    """λ ÷ roles × the role's weight × the mean over its tensors of the mean over groups."""
    from tests.layers import KINDS

    model = KINDS["BERT"].build()
    text = (
        "version: 1\nmodifiers:\n  - {type: prune, criterion: soft-movement, window: {begin: 0, end: 10}, "
        "penalty: {from: 6, to: 6, roles: {attention: 2, ffn: 0.5}}}\n"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=20)
    run = run_of(manager)
    manager.on_step_begin()
    (sum(parameter.sum() for parameter in model.parameters()) * 0).backward()
    manager.on_before_optimizer_step()
    for name, scores in run.scores.items():
        attention = ".attention." in name
        portion = 2 / 2 / 8 if attention else 0.5 / 2 / 4  # eight matrices of attention, four of the FFN
        values = scores.values.detach()
        wanted = 6 * portion * values.sigmoid() * (1 - values.sigmoid()) / values.numel()
        assert scores.values.grad is not None
        torch.testing.assert_close(scores.values.grad, wanted)


# ---------------------------------------------------------------------- counting


def test_the_ramp_begins_and_ends_where_the_window_does(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, CRITERIA["hard"], window="{begin: 2, end: 10}")
    seen = []
    for step in range(12):
        train(mlp, optimizer, manager, range(step, step + 1))
        seen.append(zeros(mlp, "0.weight"))
    elements = mlp[0].weight.numel()
    assert seen[:2] == [0, 0]
    assert seen[2] == budget(0.75 - 0.75 * (7 / 8) ** 3, elements)
    assert seen[9:] == [budget(0.75, elements)] * 3


def test_two_of_four_along_the_inputs(mlp: nn.Module) -> None:
    manager, optimizer = start(mlp, CRITERIA["hard"], pattern='"2:4"', sparsity="0.5", targets='["0", "2"]')
    train(mlp, optimizer, manager, range(STEPS))
    manager.finalize()
    for index in (0, 2):
        assert bool(((mlp[index].weight != 0).view(-1, 4).sum(1) == 2).all())


@pytest.mark.parametrize("init", ["zero", "magnitude"])
def test_exact_counts_for_convolutions_in_any_memory_format(init: str) -> None:
    """nn_pruning returned raw scores for tensors that are not contiguous."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager, _ = start(model, f"{{type: movement, init: {init}}}", optimizer, sparsity="0.29")
    for _ in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        model(torch.randn(2, 4, 8, 8)).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    assert zeros(model, "0.weight") == budget(0.29, 4 * 8 * 9)


@pytest.mark.parametrize("pattern", ["row", "{type: block, shape: [8, 8]}"])
def test_biases_go_with_their_rows(pattern: str, mlp: nn.Module) -> None:
    nn.init.normal_(mlp[0].bias)
    manager, optimizer = start(
        mlp, CRITERIA["hard"], pattern=pattern, targets='"0"', biases="with-rows", sparsity="0.75"
    )
    train(mlp, optimizer, manager, range(STEPS))
    density = manager.finalize()
    dead = (mlp[0].weight == 0).all(1)
    assert bool(dead.any())
    assert torch.equal(mlp[0].bias == 0, dead)
    assert density.targeted.elements == mlp[0].weight.numel(), "biases follow, they are not counted"


def test_ten_percent_is_ten_point_one_with_biases_and_norms(tmp_path: Any) -> None:
    """Under the convention of the movement-pruning paper, which counts an encoder's biases and norms."""
    from transformers import BertConfig, BertModel

    from sparsify.report.census import count
    from sparsify.report.saved import find

    config = BertConfig(
        hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=3072, vocab_size=8
    )
    model = BertModel(config, add_pooling_layer=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    text = "version: 1\nmodifiers:\n  - {type: prune, criterion: movement, sparsity: 0.9, window: {begin: 0, end: 2}}\n"
    manager = Manager(Recipe.parse(text)).apply(model, optimizer, total_steps=2)
    for _ in range(2):
        manager.on_step_begin()
        optimizer.zero_grad()
        model(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    manager.finalize()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(1e-3)  # fresh biases are zero; trained ones are not
    model.save_pretrained(tmp_path)
    densities = {name: entry.density for name, entry in count(find(tmp_path), model).conventions.items()}
    assert densities["encoder linear"] == pytest.approx(0.1, abs=1e-6)
    assert densities["encoder"] == pytest.approx(0.101, abs=5e-4)


def test_two_processes_learn_what_one_does() -> None:
    """SparseML's movement could not run under DDP at all."""
    command = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("ddp_learned.py"))],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = re.findall(r"rank \d (\w+): weights (\S+), mask bits (\d+)", done.stdout)
    assert sorted(name for name, _, _ in lines) == ["hard", "hard", "l0", "l0", "soft", "soft"], done.stderr
    assert all(float(worst) < 1e-12 and bits == "0" for _, worst, bits in lines)
