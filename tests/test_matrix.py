"""The combination matrix: every criterion × pattern × scope × curve, found by itself.

What validates must be exact at every update, nest as sparsity rises, be deterministic, survive a round trip
through YAML, and resume bit by bit; what does not must be refused with a sentence.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sparsify import Manager, PlanError, Recipe
from sparsify.criteria import Criterion
from sparsify.masking import budget
from sparsify.modifiers.prune import Prune
from sparsify.patterns import Pattern
from sparsify.schedules import Curve, Ramp, Window
from sparsify.scopes import Scope
from tests.loop import train

STEPS, STOP = 9, 4
TARGETS = ("0", "2")

CRITERIA = [criterion for criterion in Criterion.samples() if not criterion.keeps_zeros]
COMBINATIONS = list(itertools.product(CRITERIA, Pattern.samples(), Scope.samples(), Curve.samples()))


def model() -> nn.Module:
    """Return a model that all patterns divide, with some equal weights and some zeros."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4))
    with torch.no_grad():
        net[0].weight[:4] = net[0].weight[4:8]
        net[2].weight[5, :7] = 0
    return net


def recipe_of(criterion: Criterion, pattern: Pattern, scope: Scope, curve: Curve) -> Recipe:
    """Return a recipe of one `prune`, as sparse as the pattern allows up to 80 %."""
    ramp = Ramp(from_=0.1, to=min(0.8, pattern.most()), curve=curve)
    spec = Prune(
        targets=TARGETS,
        criterion=criterion,
        pattern=pattern,
        scope=scope,
        sparsity=ramp,
        window=Window.model_validate({"begin": 1, "end": 7, "every": 2}),
    )
    return Recipe(version=1, modifiers=(spec,))


def masks_of(net: nn.Module, manager: Manager) -> dict[str, torch.Tensor]:
    """Return copies of the masks in force."""
    return {name: mask.clone() for name, _, mask in manager._masks}


def check_exact(spec: Prune, wanted: float, masks: dict[str, torch.Tensor]) -> None:
    """Every arena has the shortest prefix of groups that reaches its budget, and groups are whole."""
    names = list(masks)
    size = max(spec.pattern.size(*mask.shape) for mask in masks.values())
    for arena in spec.scope.arenas(len(names)):
        elements = sum(masks[names[i]].numel() for i in arena)
        pruned = sum(int((~masks[names[i]]).sum()) for i in arena)
        assert budget(wanted, elements) <= pruned < budget(wanted, elements) + size
    for mask in masks.values():
        rows, columns = spec.pattern.tile(*mask.shape)
        tiles = mask.view(mask.shape[0] // rows, rows, mask.shape[1] // columns, columns).float().mean(dim=(1, 3))
        assert bool(((tiles == 0) | (tiles == 1)).all())


@pytest.mark.parametrize("axes", COMBINATIONS, ids=lambda axes: ", ".join(axis.label() for axis in axes))
def test_every_combination(axes: tuple[Criterion, Pattern, Scope, Curve]) -> None:
    recipe = recipe_of(*axes)
    assert Recipe.parse(recipe.dump()).staged() == recipe.staged()
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.003)
    try:
        manager = Manager(recipe).apply(net, optimizer, total_steps=STEPS)
    except PlanError as error:
        assert len(str(error)) > 20
        return
    (spec,) = recipe.modifiers
    assert isinstance(spec, Prune)
    before: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        train(net, optimizer, manager, range(step, step + 1))
        masks = masks_of(net, manager)
        window = manager.plan.modifiers[0].window
        if window.due(manager.step):
            assert manager.target is not None
            check_exact(spec, manager.target, masks)
        for name, mask in before.items():
            assert not bool((masks[name] & ~mask).any()), "masks nest under projection"
        before = masks
        if manager.step == STOP:
            parts = [part.state_dict() for part in (net, optimizer, manager)]
            saved = [
                torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, p)
                for p in parts
            ]
    manager.finalize()

    again = model()
    optimizer = torch.optim.AdamW(again.parameters(), lr=0.003)
    manager = Manager(recipe).apply(again, optimizer, total_steps=STEPS)
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    manager.load_state_dict(saved[2])
    train(again, optimizer, manager, range(STOP, STEPS))
    manager.finalize()
    for mine, theirs in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_matrix_is_not_empty() -> None:
    assert len(COMBINATIONS) >= 80
    assert len({axes[1].type for axes in COMBINATIONS}) >= 3
