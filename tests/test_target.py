"""`sparsity` and `target`: each weight once, and comparable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify import Manager, Recipe
from tests.models import build


def trained(model: nn.Module, recipe: str, steps: int, total: int | None = None) -> Manager:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    manager = Manager(Recipe.parse(recipe)).apply(model, optimizer, total_steps=total or steps)
    for _ in range(steps):
        manager.on_step_begin()
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
        manager.on_before_optimizer_step()
        optimizer.step()
        manager.on_step_end()
    return manager


def test_the_target_is_that_of_all_targeted_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32))
    text = (
        'version: 1\nmodifiers:\n  - {type: prune, name: a, targets: "0", sparsity: 0.3, window: {end: 8}}\n'
        '  - {type: prune, name: b, targets: "1", sparsity: 0.9, window: {begin: 4, end: 8}}\n'
    )
    manager = trained(model, text, 9)
    assert manager.target == pytest.approx((0.3 * 64 * 64 + 0.9 * 64 * 32) / (64 * 96))
    assert manager.target == pytest.approx(manager.sparsity, abs=1e-3)


def test_before_the_first_window_there_is_no_target() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    text = 'version: 1\nmodifiers:\n  - {type: prune, targets: "*", sparsity: 0.5, window: {begin: 4, end: 8}}\n'
    manager = Manager(Recipe.parse(text)).apply(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=9)
    assert manager.target is None


@pytest.mark.parametrize("ramp", ["{to: 0.6, curve: linear}", "{from: existing, to: 0.3}"])
def test_the_target_is_never_less_than_what_was_pruned_before(ramp: str) -> None:
    """It stays pruned, so of a ramp that begins or ends below it, only what lies above counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))
    with torch.no_grad():
        model[0].weight[:32] = 0
    text = (
        "version: 1\nstages:\n  - {name: one, length: 2 steps, modifiers: "
        '[{type: prune, targets: "*", criterion: existing}]}\n'
        f'  - {{name: two, modifiers: [{{type: prune, targets: "*", sparsity: {ramp}, window: {{end: 10}}}}]}}\n'
    )
    manager = trained(model, text, 4, total=12)
    assert manager.target == manager.sparsity == 0.5


@pytest.mark.parametrize("order", ["parts first", "whole first"])
def test_parts_and_their_whole_are_counted_once(order: str) -> None:
    """GPT-2 keeps query, key and value in one matrix; heads are parts of it."""
    model = build("gpt2")
    heads = (
        "{type: prune, targets: attention, pattern: head, sparsity: {from: SOME, to: 0.5}, window: {begin: 0, end: 3}}"
    )
    singles = "{type: prune, targets: attention, sparsity: {from: SOME, to: 0.8}, window: {begin: 0, end: 3}}"
    parts = [heads, singles] if order == "parts first" else [singles.replace("0.8", "0.4"), heads]
    first, second = parts[0].replace("SOME", "0.1"), parts[1].replace("SOME", "existing")
    text = (
        f"version: 1\nstages:\n  - name: one\n    length: 4 steps\n    modifiers:\n      - {first}\n"
        f"  - name: two\n    modifiers:\n      - {second}\n"
    )
    manager = trained(model, text, 9)
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".attn." in name and (parameter.dim() == 2 or name.endswith("c_attn.bias"))
    }
    elements = sum(parameter.numel() for parameter in matrices.values())
    zeros = sum(int((parameter == 0).sum()) for parameter in matrices.values())
    biases = sum(p.numel() for n, p in matrices.items() if n.endswith("bias"))
    found = manager.finalize()
    assert found.targeted.elements == elements
    assert found.targeted.elements - found.targeted.nonzeros == zeros
    assert manager.sparsity == pytest.approx(found.targeted.sparsity, abs=biases / elements)
    assert all("[" not in name for name in found.tensors), "each matrix under its own name"
