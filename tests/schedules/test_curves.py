"""Curves, ramps and windows: exact ends, clamped, monotone; the last update guaranteed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsify.durations import Duration
from sparsify.errors import RecipeError, SparsifyError
from sparsify.modifiers.span import ClockError, Span
from sparsify.recipe import Recipe
from sparsify.schedules import Curve, Ramp, Window
from sparsify.schedules.constant import Constant
from sparsify.schedules.window import StepWindow

CURVES = Curve.samples()


@given(st.sampled_from(CURVES), st.floats(0, 1), st.floats(0, 1), st.floats(-1, 2), st.floats(-1, 2))
@example(Constant(), 0.32518328341128383, 0.92, 0.0, 0.0)
def test_curves_are_clamped_and_monotone(curve: Curve, start: float, end: float, p: float, q: float) -> None:
    start, end = sorted((start, end))
    low, high = (curve.value(x, start, end) for x in sorted((p, q)))
    assert start <= low <= high <= end
    assert curve.value(1.0, start, end) == end
    assert curve.value(2.0, start, end) == end
    assert curve.value(0.0, start, end) == (end if curve.jumps else start)


def test_the_cubic_curve_is_that_of_zhu_and_gupta() -> None:
    ramp = Ramp(from_=0.1, to=0.9)
    for step in range(101):
        p = step / 100
        assert ramp.at(p) == pytest.approx(0.9 + (0.1 - 0.9) * (1 - p) ** 3)
    assert Ramp(to=0.9).at(0.5) == pytest.approx(0.7875)


def test_an_existing_start_is_taken_from_the_weights() -> None:
    ramp = Ramp.model_validate({"from": "existing", "to": 0.8, "curve": "linear"})
    assert ramp.at(0, existing=0.5) == 0.5
    assert ramp.at(0.5, existing=0.5) == pytest.approx(0.65)
    assert ramp.at(1, existing=0.5) == 0.8
    assert ramp.at(0, existing=0.95) == 0.8


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20))
def test_updates_begin_at_the_beginning_and_end_at_the_end(begin: int, length: int, every: int) -> None:
    window = StepWindow(begin, begin + length, every)
    due = [step for step in range(120) if window.due(step)]
    assert due == list(window.updates())
    assert due[0] == begin
    assert due[-1] == begin + length
    assert len(due) == window.count()
    assert window.progress(due[-1]) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (500, "500 steps"), ("500 steps", "500 steps"), ("1 step", "1 step"), ("2.5 epochs", "2.5 epochs"),
        ("1 epoch", "1 epoch"), ("10%", "10%"), ("12.5 %", "12.5%"), ("100%", "100%"), (3.0, "3 steps"),
    ],
)  # fmt: skip
def test_durations_are_read_and_written(text: object, shown: str) -> None:
    assert str(Duration.parse(text)) == shown
    assert Duration.parse(shown) == Duration.parse(text)


@pytest.mark.parametrize(
    ("duration", "steps"), [("10%", 100), ("0.25%", 2), ("0.35%", 4), ("2.5 epochs", 275), ("7 steps", 7)]
)
def test_durations_become_steps_rounded_half_to_even(duration: str, steps: int) -> None:
    assert Span(0, 1000, 110).steps(Duration.parse(duration)) == steps


def test_windows_are_relative_to_their_stage() -> None:
    window = Window.model_validate({"begin": "10%", "end": "50%", "every": "5 steps"})
    assert Span(200, 100, None).window(window) == StepWindow(210, 250, 5)
    assert Span(200, 100, None).window(Window()) == StepWindow(200, 300, 1)


@pytest.mark.parametrize(
    ("window", "span", "message"),
    [
        ({"begin": "10%"}, Span(0, None, None), "'10%' needs total_steps"),
        ({"begin": "1 epoch", "end": 5}, Span(0, 100, None), "'1 epoch' needs steps_per_epoch"),
        ({"begin": 5}, Span(0, None, None), "the window has no end, and total_steps is not known"),
        ({"begin": 50, "end": "20%"}, Span(0, 100, None), "the window begins at step 50 and ends at step 20"),
        ({"end": 101}, Span(0, 100, None), "'101 steps' lies beyond the stage's 100 steps"),
        ({"end": "2 epochs"}, Span(0, 100, 60), "'2 epochs' (step 120) lies beyond the stage's 100 steps"),
        ({"every": "1%"}, Span(0, 40, None), "'1%' of the stage rounds to no step at all"),
    ],
)
def test_windows_that_cannot_be(window: dict[str, object], span: Span, message: str) -> None:
    with pytest.raises(ClockError) as error:
        span.window(Window.model_validate(window))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("curve", "values"),
    [
        ("linear", [0.0, 0.225, 0.45, 0.675, 0.9]),
        ("cubic", [0.0, 0.5203125, 0.7875, 0.8859375, 0.9]),
        ({"type": "polynomial", "power": 3.0}, [0.0, 0.5203125, 0.7875, 0.8859375, 0.9]),
        ({"type": "polynomial", "power": 1.0}, [0.0, 0.225, 0.45, 0.675, 0.9]),
        ("cosine", [0.0, 0.13180194846605, 0.45, 0.76819805153395, 0.9]),
        ("exponential", [0.0, 0.43765867480965, 0.68377223398316, 0.82217205899612, 0.9]),
        ({"type": "multistep", "steps": [[0.25, 0.5], [0.75, 0.9]]}, [0.0, 0.45, 0.45, 0.81, 0.9]),
        ("constant", [0.9] * 5),
        ("one-shot", [0.9] * 5),
    ],
)
def test_the_values_of_each_curve(curve: object, values: list[float]) -> None:
    """By hand; the exponential value at one half is Neural Compressor's .684."""
    assert [Curve.parse(curve).value(p / 4, 0.0, 0.9) for p in range(5)] == pytest.approx(values)


def test_the_neural_compressor_cubic_is_not_ours() -> None:
    """Its `cube` is convex (.113 at one half); ours is Zhu and Gupta's (.788)."""
    assert Curve.parse("cubic").value(0.5, 0, 0.9) == pytest.approx(0.7875)


def test_no_curve_begins_beyond_its_target() -> None:
    """LLM Compressor's polynomial decay starts at 1.6 for a target of 0.8, and its linear passes the target."""
    for curve in CURVES:
        assert all(0 <= curve.value(p / 50, 0.0, 0.8) <= 0.8 for p in range(-10, 90))


@pytest.mark.parametrize(("fraction", "said"), [
    (lambda p: 1.5 * p, r"fraction\(0.672\) is 1.008; it must lie between 0 and 1"),
    (lambda p: p - 0.1, r"fraction\(0.0156\) is -0.0843\d; it must lie"),
    (lambda p: 1 - p, r"it falls from 0.9844 to 0.9688 at fraction\(0.0312\); it must rise"),
    (lambda p: float("nan"), "is nan; it must lie between"),
])  # fmt: skip
def test_a_curve_of_ones_own_keeps_what_the_recipe_promises(
    monkeypatch: pytest.MonkeyPatch, fraction: Callable[[float], float], said: str
) -> None:
    monkeypatch.setattr(Curve, "_members", dict(Curve.members()))

    class Mine(Curve):
        type: Literal["mine"] = "mine"
        broken: bool = False

        def fraction(self, progress: float) -> float:
            return fraction(progress) if self.broken else progress

    with pytest.raises(RecipeError, match=rf"curve 'mine': .*{said}"):
        Recipe.parse("{version: 1, modifiers: [{type: prune, sparsity: {to: 0.8, curve: {type: mine, broken: true}}}]}")
    with pytest.raises(SparsifyError, match=rf"curve 'other': .*{said}"):

        class Other(Curve):
            type: Literal["other"] = "other"

            def fraction(self, progress: float) -> float:
                return fraction(progress)
