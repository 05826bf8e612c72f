"""Weights that somebody else writes to, replaces, moves or renames."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, SparsityError
from tests.loop import STEPS, adamw, latent_of, masks_of, recipe, train

LATENT = ["movement", "soft-movement", "hard-concrete"]


def clamp(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.clamp_(-0.05, 0.05)  # a write that no version counter sees


def load(model: nn.Module) -> None:
    torch.manual_seed(7)
    state = {name: torch.randn_like(tensor) * 0.1 for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)


@pytest.mark.parametrize("criterion", LATENT)
@pytest.mark.parametrize("write", [clamp, load])
@pytest.mark.parametrize("steps", [0, 5])
def test_what_others_write_is_taken_up(
    mlp: nn.Module, criterion: str, write: Callable[[nn.Module], None], steps: int
) -> None:
    """A learning rate of 0 shows what the weights are afterwards: what was written, under the masks."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    manager = Manager(recipe(criterion=criterion)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(steps))
    write(mlp)
    written = copy.deepcopy(mlp.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    train(mlp, optimizer, manager, range(1))
    masks = masks_of(manager)
    for name, tensor in mlp.state_dict().items():
        kept = masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        if criterion == "hard-concrete" and tensor.dim() == 2:  # gates move with their scores
            kept = kept & (tensor != 0)
            ratio = tensor[kept] / written[name][kept]
            assert steps or bool((ratio > 0).all())
        else:
            torch.testing.assert_close(tensor[kept], written[name][kept], rtol=0, atol=0)
    optimizer.param_groups[0]["lr"] = 0.1
    train(mlp, optimizer, manager, range(manager.step, STEPS))
    assert manager.finalize().targeted.sparsity == 0.75


def test_what_is_written_under_a_mask_comes_alive_under_it(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(6))
    mask = masks_of(manager)["0.weight"].clone()
    with torch.no_grad():
        mlp.get_parameter("0.weight").fill_(0.5)
    manager.on_step_begin()
    mlp(torch.randn(4, 16)).square().mean().backward()
    manager.on_before_optimizer_step()
    assert bool((latent_of(manager, "0.weight").tensor == 0.5).all())
    manager.on_step_end()
    assert not bool(mlp.get_parameter("0.weight")[~mask].count_nonzero())


def test_several_processes_refuse_it(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion="movement")).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(3))
    monkeypatch.setattr("sparsify.ranks.count", lambda: 2)
    clamp(mlp)
    manager.on_step_begin()
    with pytest.raises(HookError, match="was written to after apply\\(\\) in one of several processes"):
        manager.on_before_optimizer_step()


def test_a_parameter_that_is_replaced(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    mlp.load_state_dict(copy.deepcopy(mlp.state_dict()), assign=True)
    manager.on_step_begin()
    mlp(torch.randn(4, 16)).square().mean().backward()
    with pytest.raises(HookError, match=r"the parameter 0\.weight was replaced after apply\(\)"):
        manager.on_before_optimizer_step()


@pytest.mark.parametrize("criterion", LATENT)
def test_a_model_of_another_dtype(mlp: nn.Module, criterion: str) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe(criterion=criterion)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(2))
    mlp.double()
    manager.on_step_begin()
    mlp(torch.randn(4, 16).double()).square().mean().backward()
    with pytest.raises(
        HookError, match="was float32 on cpu when its latent weight was taken, and is float64 on cpu now"
    ):
        manager.on_before_optimizer_step()


def test_names_with_brackets_and_dots() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"lang[en]": nn.Linear(8, 8), "lang[0:4]": nn.Linear(8, 8)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    manager = Manager(recipe(sparsity="0.5", window="{end: 3}")).apply(model, optimizer, total_steps=5)
    for _ in range(5):
        manager.on_step_begin()
        optimizer.zero_grad()
        model["lang[en]"](model["lang[0:4]"](torch.randn(4, 8))).square().mean().backward()
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    state = manager.state_dict()
    assert list(state["masks"]) == ["lang[en].weight", "lang[0:4].weight"]
    found = manager.finalize()
    assert list(found.tensors) == ["lang[en].weight", "lang[0:4].weight"]
    assert found.targeted.sparsity == 0.5


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, while it traces
def test_layers_compiled_after_apply_keep_their_masks(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    mlp[2] = torch.compile(mlp[2], backend="eager")  # type: ignore[operator]
    assert "2._orig_mod.weight" in dict(mlp.named_parameters())
    train(mlp, optimizer, manager, range(STEPS))
    average = torch.optim.swa_utils.AveragedModel(mlp)
    manager.project(average)
    assert manager.finalize().tensors["2.weight"].sparsity == 0.75


def test_nan_is_not_verified(mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(recipe()).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(STEPS))
    kept = masks_of(manager)["2.weight"].nonzero()[0]
    with torch.no_grad():
        mlp.get_parameter("2.weight")[tuple(kept)] = math.nan
    with pytest.raises(
        SparsityError, match=r"values that are not finite, so that no sparsity can be verified: 2\.weight"
    ):
        manager.finalize()
