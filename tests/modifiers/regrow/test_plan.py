"""Fields, plans, phases and states of `regrow`: what is refused, and what is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsify import Manager, Plan, PlanError, Recipe, StateError
from sparsify.errors import RecipeError
from sparsify.modifiers.regrow.phases import Phases
from sparsify.modifiers.regrow.plan import RegrowPlan
from sparsify.modifiers.regrow.regrow import Regrow
from sparsify.modifiers.span import Span
from sparsify.schedules.window import StepWindow
from tests.loop import adamw, train
from tests.modifiers.regrow.reference import erk, regrow

BASE = "sparsity: 0.7, window: {end: 8, every: 2}"
PHASES = "sparsity: 0.7, grow: everything, dense: 2, window: {begin: 1, end: 10, every: 4}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("window: {every: 2}", "sparsity"),
        ("sparsity: 0.5", "window"),
        ("sparsity: {from: existing, to: 0.5}, window: {every: 2}", "`regrow` starts at a number"),
        (BASE + ", fraction: 1.5", "a fraction lies between 0 and 1, got 1.5"),
        (BASE + ", fraction: {from: 0.5, to: 0, curve: exponential}", "the exponential curve only rises"),
        (BASE + ", scope: row", "the scope 'row' ranks each row by itself"),
        (BASE + ", scope: {type: global, ceiling: 0.5}", "the scope allows a sparsity of at most 0.5, got 0.7"),
        (BASE + ", dense: 1", "only `grow: everything` has dense phases"),
        (BASE + ", grow: everything", "`everything` needs `dense`"),
        (PHASES + ", fraction: 0.2", "`grow: everything` takes no `fraction`"),
        (PHASES + ", start: random", "`grow: everything` keeps the largest weights"),
        (PHASES.replace("dense: 2", "dense: 4"), "a dense phase of 4 steps leaves nothing of a period of 4 steps"),
    ],
)
def test_what_a_recipe_cannot_say(fields: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(regrow(fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (BASE.replace("end: 8", "begin: 8, end: 8"), "the window is empty"),
        (BASE.replace("every: 2", "every: 80%"), "between its ends nothing is exchanged: the window lasts 8 steps"),
        (BASE + ", scope: {type: global, floor: 0.2}", "cannot keep a floor: leave it out, or write `scope: erk`"),
        (BASE + ", scope: {type: global, within: role}", "needs a model with layers: nothing repeats in this one"),
        (PHASES.replace("dense: 2", "dense: 1%"), "a dense phase of 0 steps in a period of 4"),
        (PHASES.replace("every: 4", "every: 95%"), "no period of 11 steps fits into the 9 of the window"),
        (PHASES.replace("dense: 2", "dense: 1 epoch"), "dense: '1 epoch' needs steps_per_epoch"),
        (BASE.replace("end: 8", "end: 80"), "lies beyond the stage's 12 steps"),
    ],
)
def test_what_a_plan_refuses(fields: str, message: str, mlp: nn.Module) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.of(Recipe.parse(regrow(fields)), mlp, total_steps=12)


def test_what_cannot_grow(mlp: nn.Module) -> None:
    mlp[0].requires_grad_(False)
    with pytest.raises(PlanError, match=r"0\.weight: is frozen, so that nothing can grow in it"):
        Plan.of(Recipe.parse(regrow(BASE)), mlp, total_steps=12)
    table = nn.Sequential(nn.Embedding(8, 8, sparse=True), nn.Linear(8, 4))
    with pytest.raises(PlanError, match="has sparse gradients"):
        Plan.of(Recipe.parse(regrow(BASE).replace('"*"', '"0"')), table, total_steps=12)


def test_two_owners_at_one_time_are_refused(mlp: nn.Module) -> None:
    prune = '  - {type: prune, targets: "*", sparsity: 0.9, window: {begin: 6}}\n'
    with pytest.raises(PlanError, match="acts on .* at the same time"):
        Plan.of(Recipe.parse(regrow(BASE) + prune), mlp, total_steps=12)


def test_a_plan_knows_every_count(mlp: nn.Module) -> None:
    plan = Plan.of(Recipe.parse(regrow(BASE)), mlp, total_steps=12)
    (one,) = plan.modifiers
    assert isinstance(one, RegrowPlan)
    weights = {name: tuple(p.shape) for name, p in mlp.named_parameters() if p.dim() > 1}
    wanted = erk(weights, 0.7)
    found = {tensor.name: (tensor.target, tensor.elements - (tensor.nonzeros or 0)) for tensor in one.tensors}
    for name, (target, zeros) in found.items():
        assert target == pytest.approx(wanted[name])
        assert zeros == round(wanted[name] * mlp.get_parameter(name).numel())
    assert one.held == (0, 8)
    assert one.facts["fraction"] == "0.3 to 0"
    assert "dense" in Plan.of(Recipe.parse(regrow(PHASES)), mlp, total_steps=12).modifiers[0].facts


def test_phases_as_published() -> None:
    phases = Phases(StepWindow(10, 85, 10), 5)
    compressed = [step for step in range(100) if phases.at(step) in ("compressed", "final")]
    wanted = [step for begin in range(10, 80, 10) for step in range(begin, begin + 5)] + list(range(85, 100))
    assert compressed == wanted
    begins = [*((step, "compressed") for step in range(10, 80, 10)), *((step, "dense") for step in range(15, 85, 10))]
    assert list(phases.changes(100)) == [*sorted(begins), (85, "final")]
    assert len(list(phases.changes(4))) <= 8
    assert Phases(StepWindow(0, 8, 4), 1).at(8) == "final"
    assert [Phases(StepWindow(0, 8, 4), 1).at(step) for step in (2, 3, 4, 7)] == [
        "compressed", "dense", "compressed", "dense",
    ]  # fmt: skip


def test_what_is_told() -> None:
    (rigl,) = Recipe.parse(regrow(BASE)).modifiers
    (phases,) = Recipe.parse(regrow(PHASES)).modifiers
    assert isinstance(rigl, Regrow)
    assert isinstance(phases, Regrow)
    assert "others grow where the dense gradient is largest" in " ".join(rigl.explain())
    assert "In every 4 steps the last 2 steps are dense" in " ".join(phases.explain())
    assert rigl.track(Span(0, 12, None), 10).points == ((0, 0.7), (2, 0.7), (4, 0.7), (6, 0.7), (8, 0.7))
    assert phases.track(Span(0, 12, None), 10).points == ((1, 0.7), (3, 0.0), (5, 0.7), (7, 0.0), (10, 0.7))
    assert Regrow.findings({"regrown": 1234}) == ["1,234 times a weight grew in place of another"]
    assert Regrow.findings({"regrown": "many"}) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("done", 9, "expected a whole number from -1 to 4"),
        ("regrown", -1, "expected a whole number"),
        ("fixed", {"0.weight": torch.zeros(3, dtype=torch.uint8)}, r"expected 64 of uint8"),
        ("fixed", {"9.weight": torch.zeros(64, dtype=torch.uint8)}, "is not known here"),
        ("more", 1, "is not known here"),
    ],
)
def test_a_wrong_state(key: str, value: Any, message: str, mlp: nn.Module) -> None:
    optimizer = adamw(mlp)
    manager = Manager(Recipe.parse(regrow(BASE))).apply(mlp, optimizer, total_steps=12)
    train(mlp, optimizer, manager, range(4))
    state = manager.state_dict()
    state["modifiers"]["regrow"][key] = value
    with pytest.raises(StateError, match=message):
        manager.load_state_dict(state)
