"""What scores cannot be learned from is refused before it does harm; what probably goes wrong is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify import HookError, Manager, Plan, PlanError, Recipe
from sparsify.criteria import Criterion
from tests.learning import start
from tests.loop import STEPS, loss_of, recipe


def test_a_frozen_weight_is_refused(mlp: nn.Module) -> None:
    mlp[0].weight.requires_grad_(False)
    with pytest.raises(PlanError, match=r"0\.weight: is frozen, so its scores cannot be learned"):
        start(mlp, "movement")


@pytest.mark.parametrize(
    "modifier",
    [
        "{type: prune, criterion: movement, sparsity: 0.5}",
        "{type: prune, criterion: magnitude, masking: latent, sparsity: 0.5}",
        "{type: penalty, strength: 0.1}",
    ],
)
def test_sparse_gradients_are_refused_where_every_gradient_is_needed(modifier: str) -> None:
    model = nn.Sequential(nn.Embedding(16, 8, sparse=True), nn.Linear(8, 4))
    recipe = Recipe.parse(f"version: 1\nmodifiers: [{modifier[:-1]}, targets: ['0']}}]\n")
    with pytest.raises(PlanError, match=r"0\.weight: has sparse gradients; build its embedding with `sparse=False`"):
        Plan.of(recipe, model, total_steps=20)
    Plan.of(recipe, nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 4)), total_steps=20)


def test_an_optimizer_without_the_weights_is_refused(mlp: nn.Module) -> None:
    optimizer = torch.optim.SGD(mlp[2:].parameters(), lr=0.1)
    with pytest.raises(PlanError, match=r"the optimizer does not train 0\.weight, so its scores cannot be learned"):
        start(mlp, "movement", optimizer)
    start(mlp, "movement")  # nothing is left behind


@pytest.mark.parametrize(
    "modifier", ["{type: prune, criterion: movement, sparsity: 0.5}", "{type: penalty, strength: 0.1}"]
)
def test_an_optimizer_that_maximizes_is_refused(modifier: str, mlp: nn.Module) -> None:
    """Scores would move, and penalties push, the wrong way."""
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1, maximize=True)
    manager = Manager(Recipe.parse(f"version: 1\nmodifiers: [{modifier[:-1]}, targets: ['0']}}]\n"))
    with pytest.raises(PlanError, match="the optimizer maximizes; give it the negative loss"):
        manager.apply(mlp, optimizer, total_steps=STEPS)


def test_scores_without_time_to_learn_are_refused(mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match="the window ends where the stage begins: scores have no time to learn"):
        start(mlp, "movement", sparsity="{to: 0.5, curve: one-shot}", window="{begin: 0}")


def test_one_call_a_step(mlp: nn.Module) -> None:
    manager, _ = start(mlp, "movement")
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    with pytest.raises(HookError, match="again over the same gradients"):
        manager.on_before_optimizer_step()


@pytest.mark.parametrize("criterion", ["movement", "{type: hard-concrete}"])
def test_a_closure_is_refused(criterion: str, mlp: nn.Module) -> None:
    """It would compute the loss of weights that the model does not have."""
    optimizer = torch.optim.LBFGS(mlp.parameters())
    manager, _ = start(mlp, criterion, optimizer)
    manager.on_step_begin()
    loss_of(mlp, 0).backward()
    manager.on_before_optimizer_step()
    with pytest.raises(HookError, match=r"optimizer\.step\(\) got a closure"):
        optimizer.step(lambda: loss_of(mlp, 0))


@pytest.mark.parametrize("criterion", ["soft-movement", "hard-concrete"])
def test_a_threshold_that_becomes_a_cliff_is_refused(criterion: str, mlp: nn.Module) -> None:
    """nn_pruning went from 1.0 to 0.1 in one step without a word."""
    with pytest.raises(PlanError, match="the sparsity would jump"):
        start(mlp, criterion, sparsity="", penalty="10", window="{begin: 2, end: 10, every: 8}")


def test_the_plan_warns_of_a_zero_start_in_a_short_run(mlp: nn.Module) -> None:
    def notes(criterion: str, steps: int) -> str:
        fields = {"window": "{begin: 5%, end: 70%}"}
        return " ".join(Plan.of(recipe(criterion=criterion, **fields), mlp, total_steps=steps).notes)

    assert "scores that start at zero have 700 steps to learn" in notes("{type: movement, init: zero}", 1000)
    assert "scores that start at zero have 700 steps to learn" in notes("{type: soft-movement, init: zero}", 1000)
    assert "scores that start at constant have 700 steps" in notes("{type: hard-concrete, init: constant}", 1000)
    assert not notes("movement", 1000)
    assert not notes("{type: movement, init: zero}", 100_000)
    assert "scores cannot reach their threshold" in notes("soft-movement", 100)
    assert not notes("soft-movement", 2000)


@pytest.mark.parametrize("criterion", ["soft-movement", "hard-concrete"])
def test_the_way_of_scores_is_measured_at_half_their_rate(criterion: str, mlp: nn.Module) -> None:
    need = abs(Criterion.parse(criterion).distance())  # type: ignore[attr-defined]
    for times, noted in ((1.5, True), (1.9, True), (2.1, False)):
        written = f"{{type: {criterion}, learning_rate: {times * need / 100}}}"
        plan = Plan.of(recipe(criterion=written, window="{begin: 10, end: 100}"), mlp, total_steps=120)
        assert ("scores cannot reach" in " ".join(plan.notes)) == noted
