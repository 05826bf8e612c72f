"""Autocast, gradient scalers with skipped steps, models of other dtypes (SPEC A)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, Recipe
from sparsify.masking import budget
from tests.loop import STEPS, WEIGHTS, adamw, latent_of, loss_of, recipe, train, wanted_zeros, zeros


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
        with pytest.raises(HookError, match=r"on_before_optimizer_step\(\) was called inside an autocast region"):
            manager.on_before_optimizer_step()
    manager.on_before_optimizer_step()
    optimizer.step()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(HookError, match=r"on_step_end\(\) was called inside"),
    ):
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
    with pytest.raises(HookError, match="is called once for each optimizer step, right before it"):
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


def test_a_last_update_made_at_the_end_ranks_latent_weights(mlp: nn.Module) -> None:
    """Two steps are lost: what is latent is ranked as it is, so that what was masked may come back."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, backoff_factor=1.0 - 1e-6)
    manager = Manager(recipe(window="{begin: 2, end: 14, every: 1}", masking="latent"))
    manager.apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (math.inf if step >= 12 else 1)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    assert (manager.step, manager._masks.latents) == (12, len(WEIGHTS))
    latents = {name: latent_of(manager, name).tensor for name in WEIGHTS}
    for name, latent in latents.items():
        pruned = (mlp.get_parameter(name) == 0).nonzero()
        latent[tuple(pruned[0])] = 5.0
    kept = {name: latent.clone() for name, latent in latents.items()}
    manager.finalize()
    assert manager._masks.latents == 0
    for name, latent in kept.items():
        weight = mlp.get_parameter(name)
        lowest = latent.abs().flatten().argsort(stable=True)[: budget(0.75, latent.numel())]
        wanted = latent.clone().flatten()
        wanted[lowest] = 0
        assert torch.equal(weight.flatten(), wanted)
        assert bool((weight == 5.0).any())


def test_a_stage_that_only_skipped_steps_kept_from_beginning_begins_at_the_end(mlp: nn.Module) -> None:
    """Every lost update is made, in order: scores start with their stage, and are ranked at its last update."""
    text = """version: 1
stages:
  - {name: dense, length: 12, modifiers: [{type: penalty, targets: "*", norm: l2, strength: 0.01}]}
  - name: learned
    modifiers:
      - {type: prune, targets: "*", criterion: movement, sparsity: {to: 0.5, curve: constant},
         window: {begin: 2, end: 2}}
"""
    optimizer = adamw(mlp)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS, scaler=scaler)
    for step in range(STEPS):
        manager.on_step_begin()
        optimizer.zero_grad()
        scaler.scale(loss_of(mlp, step) * (math.inf if step in (3, 5, 7) else 1)).backward()
        manager.on_before_optimizer_step()
        scaler.step(optimizer)
        scaler.update()
        manager.on_step_end()
    assert manager.step == 11
    lowest = {name: mlp.get_parameter(name).abs().flatten().argsort() for name in WEIGHTS}
    assert manager.finalize().targeted.sparsity == 0.5
    for name, order in lowest.items():
        assert not bool(mlp.get_parameter(name).flatten()[order[: len(order) // 2]].any())
