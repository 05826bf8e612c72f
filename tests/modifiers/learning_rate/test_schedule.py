"""The multiple of every step, worked out by hand."""

from __future__ import annotations

import math

import pytest

from sparsify import Plan, PlanError, Recipe
from sparsify.errors import RecipeError
from sparsify.modifiers.learning_rate.run import LearningRatePlan
from tests.models import build

STEPS = 12


def plan_of(fields: str, steps: int = STEPS) -> LearningRatePlan:
    recipe = Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: learning_rate, {fields}}}\n")
    (plan,) = Plan.of(recipe, build("resnet-by-hand"), total_steps=steps).modifiers
    assert isinstance(plan, LearningRatePlan)
    return plan


def multiples(fields: str) -> list[float | None]:
    plan = plan_of(fields)
    return [plan.schedule.at(step) if plan.active(step) else None for step in range(STEPS)]


def test_linear() -> None:
    assert multiples("curve: linear") == pytest.approx([1 - step / 12 for step in range(12)])
    assert multiples("from: 2, to: 0.5") == pytest.approx([2 - 1.5 * step / 12 for step in range(12)])


def test_cosine() -> None:
    wanted = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
    assert multiples("curve: cosine, to: 0.1") == pytest.approx(wanted)


def test_warm_up() -> None:
    """It neither begins with a step of 0 nor says the curve's first value twice."""
    assert multiples("warmup: 25%") == pytest.approx([1 / 4, 2 / 4, 3 / 4, *(1 - step / 9 for step in range(9))])
    assert multiples("warmup: 3, curve: constant, from: 0.5") == pytest.approx([1 / 8, 2 / 8, 3 / 8, *[0.5] * 9])


def test_restarts() -> None:
    assert multiples("cycles: 3, to: 0.2") == pytest.approx([1, 0.8, 0.6, 0.4] * 3)
    uneven = multiples("cycles: 2, warmup: 1")  # 11 steps in two cycles
    assert uneven == pytest.approx([1 / 2, *(1 - 2 * step % 11 / 11 for step in range(11))])


def test_a_window() -> None:
    assert multiples("begin: 4, end: 8") == pytest.approx([None] * 4 + [1, 0.75, 0.5, 0.25] + [None] * 4)


def test_a_plan_says_what_it_does() -> None:
    assert plan_of("warmup: 2, curve: cosine, cycles: 2, rate: 8e-5, to: 0.1").facts == {
        "curve": "cosine, 2 cycles",
        "rate": "8e-05",
        "multiple": "1 to 0.1",
        "warm-up": "2 steps",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("begin: 13", "lies beyond the stage's 12 steps"),
        ("begin: 50%, end: 6 steps", "it ends when it begins"),
        ("warmup: 13", "the warm-up lasts 13 steps, the window 12"),
        ("warmup: 3, cycles: 10", "10 cycles do not fit into 9 steps"),
        ("warmup: 1 epoch", "needs steps_per_epoch"),
    ],
)
def test_what_a_plan_refuses(fields: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("curve: constant, to: 0", r"\.to: the curve 'constant' stays at `from`: leave `to` out"),
        ("curve: constant, cycles: 2", r"\.cycles: the curve 'constant' stays at `from`"),
        ("begin: 5, end: 3", "begins at 5 steps, after its end"),
        ("rate: 0", r"\.rate"),
    ],
)
def test_what_a_recipe_cannot_say(fields: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_of(fields)


def test_two_at_one_time_are_refused() -> None:
    one, other = "{type: learning_rate, name: a, end: 7}", "{type: learning_rate, name: b, begin: 6}"
    recipe = Recipe.parse(f"version: 1\nmodifiers:\n  - {one}\n  - {other}\n")
    with pytest.raises(PlanError, match=r"\ba sets the learning rate at the same time"):
        Plan.of(recipe, build("resnet-by-hand"), total_steps=STEPS)
    apart = Recipe.parse(f"version: 1\nmodifiers:\n  - {one}\n  - {other.replace('6', '7')}\n")
    assert len(Plan.of(apart, build("resnet-by-hand"), total_steps=STEPS).modifiers) == 2
