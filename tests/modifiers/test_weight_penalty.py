"""`penalty`: its gradients are those of the formulas, by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsify import Manager, PlanError, Recipe
from sparsify.modifiers.penalty import PenaltyPlan
from tests.layers import KINDS
from tests.loop import train

PATTERNS = {
    "unstructured": "BERT", "row": "BERT", "column": "Conv2d", "{type: block, shape: [4, 2]}": "Conv1D",
    "neuron": "BERT", "head": "GPT-2", "{type: block, shape: [5, 3], ragged: pad}": "Linear",
}  # fmt: skip


def recipe_of(fields: str) -> Recipe:
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: penalty, {fields}}}\n")


def slow(plan: PenaltyPlan, parameters: dict[str, Tensor], norm: str) -> Tensor:
    """Return the penalty for λ = 1, group by group."""
    total = torch.zeros((), dtype=torch.float64)
    for bundle in plan.bundles:
        groups: list[list[Tensor]] = [[] for _ in range(bundle.tiles)]
        for part in bundle.parts:
            cube = part.weight.cube(part.weight.region(parameters[part.weight.parameter_name]))
            height, depth, width = part.tile
            places = [range(0, size, side) for size, side in zip(cube.shape, part.tile, strict=True)]
            tiles = [
                cube[r : r + height, t : t + depth, c : c + width].flatten()
                for r in places[0] for t in places[1] for c in places[2]
            ]  # fmt: skip
            for group, tile in zip(groups, tiles, strict=True):
                group.append(tile)
        for tiles in groups:
            weights = torch.cat(tiles)
            if norm == "group-lasso":
                total = total + len(weights) ** 0.5 * (weights.norm() if bool(weights.any()) else weights.sum() * 0)
            else:
                total = total + (weights.abs().sum() if norm == "l1" else weights.square().sum() / 2)
    return total


@pytest.mark.parametrize("norm", ["group-lasso", "l1", "l2"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients(pattern: str, norm: str) -> None:
    kind = KINDS[PATTERNS[pattern]]
    model = kind.build().double()
    targets = "" if kind.targets is None else f", targets: {list(kind.targets)}"
    fields = f"pattern: {pattern}, norm: {norm}, strength: {{from: 0.3, to: 0.3}}{targets}"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    manager = Manager(recipe_of(fields)).apply(model, optimizer, total_steps=4)
    (plan,) = manager.plan.modifiers
    assert isinstance(plan, PenaltyPlan)
    named = dict(model.named_parameters())
    wanted = torch.autograd.grad(0.3 * slow(plan, named, norm), list(named.values()), allow_unused=True)
    manager.on_step_begin()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    manager.on_before_optimizer_step()
    for (name, parameter), gradient in zip(named.items(), wanted, strict=True):
        found = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, found, msg=lambda text, name=name: f"{name}: {text}")
    assert any(gradient is not None and bool(gradient.any()) for gradient in wanted)


def test_nothing_at_zero(mlp: nn.Module) -> None:
    """The reference of the group lasso divides by a norm that may be zero."""
    nn.init.zeros_(mlp[0].weight)
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    manager = Manager(recipe_of('targets: "0", pattern: row, strength: {from: 1, to: 1}')).apply(
        mlp, optimizer, total_steps=4
    )
    manager.on_step_begin()
    mlp[0].weight.grad = torch.zeros_like(mlp[0].weight)
    manager.on_before_optimizer_step()
    assert not bool(mlp[0].weight.grad.any())


def test_strength_follows_its_window_and_stays(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.0)
    fields = 'targets: "0", norm: l2, strength: {from: 0.4, to: 0.8, curve: linear}, window: {begin: 2, end: 6}'
    manager = Manager(recipe_of(fields)).apply(mlp, optimizer, total_steps=10)
    seen = []
    for _ in range(10):
        manager.on_step_begin()
        mlp[0].weight.grad = torch.zeros_like(mlp[0].weight)
        manager.on_before_optimizer_step()
        seen.append(float((mlp[0].weight.grad / mlp[0].weight.detach()).mean()))
        optimizer.step()
        manager.on_step_end()
    assert seen == pytest.approx([0, 0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8], abs=1e-6)
    manager.finalize()


def test_a_group_lasso_shrinks_groups(mlp: nn.Module) -> None:
    spread = []
    for strength in (0, 0.1):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        manager = Manager(recipe_of(f'targets: "0", pattern: row, strength: {{from: {strength}, to: {strength}}}'))
        manager.apply(model, optimizer, total_steps=200)
        train(model, optimizer, manager, range(200))
        spread.append(int((model[0].weight.norm(dim=1) < 0.1).sum()))
    assert spread[1] > spread[0] + 10


def test_it_goes_with_prune_on_the_same_tensors(mlp: nn.Module) -> None:
    text = (
        "version: 1\nmodifiers:\n"
        '  - {type: penalty, targets: "0", pattern: row, strength: 0.1}\n'
        '  - {type: prune, targets: "0", pattern: {type: row, reduce: l2}, sparsity: 0.5, window: {begin: 2, end: 8, every: 2}}\n'
    )
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.01)
    manager = Manager(Recipe.parse(text)).apply(mlp, optimizer, total_steps=10)
    assert "prunes nothing" in str(manager.plan)
    train(mlp, optimizer, manager, range(10))
    assert manager.finalize().targeted.elements == mlp[0].weight.numel()


def test_a_pattern_that_does_not_fit_is_refused(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)
    manager = Manager(recipe_of('targets: "*", pattern: {type: block, shape: [5, 3]}, strength: 1'))
    with pytest.raises(PlanError, match="do not divide"):
        manager.apply(mlp, optimizer, total_steps=4)
