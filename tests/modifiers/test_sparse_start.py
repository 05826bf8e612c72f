"""A model that is sparse already: continue, tighten, lock."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe
from sparsify.modifiers.prune.learned import LearnedRun
from tests.loop import STEPS, WEIGHTS, adamw, latent_of, recipe, train, zeros
from tests.models import build


def half_sparse(model: nn.Module) -> nn.Module:
    """Prune a model to 50 % in one shot."""
    fields = {"sparsity": "{to: 0.5, curve: constant}", "window": "{begin: 0}"}
    Manager(recipe(**fields)).apply(model, adamw(model)).finalize()
    assert zeros(model, "0.weight") == 256
    return model


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_continue_from_what_is_there(scope: str, mlp: nn.Module) -> None:
    half_sparse(mlp)
    optimizer = adamw(mlp)
    fields = {"sparsity": "{from: existing, to: 0.75, curve: linear}", "window": "{begin: 0, end: 10, every: 2}"}
    manager = Manager(recipe(scope=scope, **fields)).apply(mlp, optimizer, total_steps=STEPS)
    elements = sum(mlp.get_parameter(name).numel() for name in WEIGHTS)
    for step in range(STEPS):
        wanted = 0.5 + 0.25 * min(manager.step - manager.step % 2, 10) / 10
        assert sum(zeros(mlp, name) for name in WEIGHTS) == pytest.approx(wanted * elements, abs=2)
        train(mlp, optimizer, manager, range(step, step + 1))
    assert manager.finalize().targeted.sparsity == 0.75


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


def test_only_zeros_that_are_there_when_it_begins_cannot_come_back(mlp: nn.Module) -> None:
    """A weight that is zero by chance later on is ranked as any other; random scores do not see that it is."""
    half_sparse(mlp)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.0)
    fields = {"sparsity": "{from: existing, to: 0.75, curve: linear}", "window": "{begin: 0, end: 10, every: 5}"}
    manager = Manager(recipe(criterion="random", **fields)).apply(mlp, optimizer, total_steps=STEPS)
    with torch.no_grad():
        mlp.get_parameter("0.weight").zero_()
    train(mlp, optimizer, manager, range(5))
    assert manager.sparsity == pytest.approx(0.625, abs=0.002)


@pytest.mark.parametrize("criterion", ["magnitude", "movement"])
def test_zeros_stay_under_latent_weights_before_the_window_opens(criterion: str, mlp: nn.Module) -> None:
    before = {name: half_sparse(mlp).get_parameter(name) == 0 for name in WEIGHTS}
    optimizer = adamw(mlp)
    fields = {"sparsity": "{from: existing, to: 0.75}", "window": "{begin: 4, end: 10}"}
    manager = Manager(recipe(criterion=criterion, masking="latent", **fields)).apply(mlp, optimizer, total_steps=STEPS)
    for step in range(STEPS):
        train(mlp, optimizer, manager, range(step, step + 1))
        assert all(bool((mlp.get_parameter(name)[zero] == 0).all()) for name, zero in before.items()), step
    assert manager.finalize().targeted.sparsity == 0.75


@pytest.mark.parametrize("masking", ["", "latent"])
def test_biases_that_begin_at_zero_are_not_pruned(masking: str) -> None:
    """As in a model that was just made; those of heads that are zero already are."""
    model = build("bert")
    attention = model.get_submodule("bert.encoder.layer.0.attention.self")
    parts = [attention.get_submodule(name) for name in ("query", "key", "value")]
    rows = parts[0].weight.shape[0] // 4
    with torch.no_grad():
        for part in parts:
            part.bias.zero_()
            part.weight[:rows] = 0
        model.get_parameter("bert.encoder.layer.0.attention.output.dense.weight")[:, :rows] = 0
    fields = {"sparsity": "{from: existing, to: 0.5}", "window": "{begin: 0, end: 4}", "pattern": "head"}
    manager = Manager(recipe(targets="attention", masking=masking, **fields)).apply(model, adamw(model), total_steps=8)
    for part in parts:
        mask = next(each.mask for each in manager._masks if each.weight.parameter is part.bias)
        assert mask.tolist() == [False] * rows + [True] * (len(mask) - rows)


@pytest.mark.parametrize("second", ["criterion: movement", "masking: latent"])
def test_what_an_earlier_stage_pruned_does_not_come_back_from_latent_weights(second: str, mlp: nn.Module) -> None:
    """However large its score, or what somebody makes of the latent weight."""
    text = f"""version: 1
stages:
  - {{name: a, length: 4, modifiers: [{{type: prune, targets: "*", sparsity: {{to: 0.5, curve: one-shot}}}}]}}
  - {{name: b, modifiers: [{{type: prune, targets: "*", {second}, sparsity: {{to: 0.6, curve: constant}},
     window: {{begin: 2, end: 6}}}}]}}
"""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1, momentum=0.9)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=STEPS)
    train(mlp, optimizer, manager, range(5))
    gone = {name: mlp.get_parameter(name) == 0 for name in WEIGHTS}
    run = manager._runs[1]
    for name, zero in gone.items():
        assert int(zero.sum()) == zero.numel() // 2
        latent_of(manager, name).tensor[zero] = 9.0
        if isinstance(run, LearnedRun):
            run.scores[name].values.data[zero] = 1e3
    train(mlp, optimizer, manager, range(5, STEPS))
    assert manager.finalize().targeted.sparsity == pytest.approx(0.6, abs=0.002)
    for name, zero in gone.items():
        assert not bool(mlp.get_parameter(name)[zero].any())
