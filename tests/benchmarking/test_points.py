"""Pareto lines, and what of results becomes a point."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify.benchmarking.flops import Flops
from sparsify.benchmarking.machine import Rate
from sparsify.benchmarking.medians import Ratio, Spread
from sparsify.benchmarking.pareto import front
from sparsify.benchmarking.points import choose, panels
from sparsify.benchmarking.results import Case, Model, Result, Timing
from sparsify.errors import BenchmarkError

SPEEDS = {"dense": 1.0, "half": 1.5, "tiny": 4.0}


def model(name: str, compressed: int, **metrics: float) -> Model:
    """Return a model that was never made."""
    sizes: dict[str, Any] = {"weights": 100, "zeros": 0, "disk": 400, "level": 3, "memory": 400}
    return Model(name=name, folder=name, kind="Bert", compressed=compressed, metrics=metrics, **sizes)


def timing(name: str, against: str | None) -> Timing:
    """Return its time: so many times as fast as one second."""
    speed = SPEEDS[name]
    spread = Spread(median=1 / speed, low=0.9 / speed, high=1.1 / speed)
    ratio = Ratio(median=speed, low=0.9 * speed, high=1.1 * speed) if against and name != against else None
    return Timing(
        model=name, engine="torch", seconds=spread, share=0.5, speedup=ratio, engine_speedup=None, theoretical=speed,
        why="", peak=None,
    )  # fmt: skip


def result(models: list[Model], against: str | None = "dense") -> Result:
    """Return what a run would have found."""
    names = [each.name for each in models]
    flops = Flops(dense=10, effective=10, weights=10)
    case = Case(
        batch=1, length=8, rounds=6, rate=Rate(best=2.0, median=1.0), flops=dict.fromkeys(names, flops),
        timings=[timing(name, against) for name in names],
    )  # fmt: skip
    return Result(machine="none", threads=1, against=against, models=models, engines=["torch"], cases=[case])


DENSE, HALF = model("dense", 9_000_000, accuracy=0.9, loss=0.3), model("half", 5_000_000, accuracy=0.8, loss=0.4)
TINY = model("tiny", 1_000_000, accuracy=0.85)


def test_nothing_beats_the_front() -> None:
    points = [(1.0, 0.9), (1.5, 0.8), (4.0, 0.85), (4.0, 0.85), (0.5, 0.9)]
    assert front(points) == [0, 2, 3]  # equals do not beat each other
    assert front(points, small_x=True) == [4]
    assert front(points, small_y=True) == [1, 2, 3]
    assert front([]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_a_front_is_monotone_and_beats_the_rest(points: list[tuple[float, float]]) -> None:
    best = front(points)
    line = [points[place] for place in best]
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    for place, (x, y) in enumerate(points):
        assert place in best or any(a >= x and b >= y and (a, b) != (x, y) for a, b in line)


def test_panels_of_runs_with_a_model_in_common() -> None:
    found = panels([result([DENSE, HALF]), result([DENSE, TINY])], "accuracy")
    size, speed = found
    assert size.points == (("dense", 9.0, 0.9), ("half", 5.0, 0.8), ("tiny", 1.0, 0.85))
    assert size.small_x
    assert speed.points == (("dense", 1.0, 0.9), ("half", 1.5, 0.8), ("tiny", 4.0, 0.85))
    assert speed.title == "torch, batch 1 × 8 tokens"
    assert "as fast" in speed.axis
    assert size.reference == speed.reference == 0.9, "the model that all are compared with"


def test_baselines_that_differ_give_no_line() -> None:
    better = result([model("dense", 9_000_000, accuracy=0.95), HALF])
    size, _ = panels([result([DENSE, HALF]), better], "accuracy")
    assert size.reference is None
    size, _ = panels([result([HALF, TINY], against=None)], "accuracy")
    assert size.reference is None


def test_one_name_for_two_models_is_told_apart() -> None:
    retrained = model("half", 4_000_000, accuracy=0.7)
    size, _ = panels([result([DENSE, HALF]), result([DENSE, retrained])], "accuracy")
    assert [name for name, _, _ in size.points] == ["dense", "half (result 1)", "half (result 2)"]


def test_models_without_the_metric_are_left_out() -> None:
    size, speed = panels([result([DENSE, HALF, TINY])], "loss")
    assert [name for name, _, _ in size.points] == [name for name, _, _ in speed.points] == ["dense", "half"]


def test_a_run_by_itself_is_drawn_in_forwards_a_second() -> None:
    _, speed = panels([result([HALF, TINY], against=None)], "accuracy")
    assert speed.axis == "forwards a second"
    assert [x for _, x, _ in speed.points] == [1.5, 4.0]
    with pytest.raises(BenchmarkError, match="measure each with --against"):
        panels([result([HALF], against=None), result([TINY], against=None)], "accuracy")


def test_the_metric_is_one_that_is_there() -> None:
    assert choose([DENSE, HALF, TINY], None) == "accuracy"
    assert choose([DENSE], "loss") == "loss"
    assert choose([model("none", 1)], None) is None
    with pytest.raises(BenchmarkError, match="did you mean 'accuracy'"):
        choose([DENSE], "acuracy")
    with pytest.raises(BenchmarkError, match=r"none of them has a report\.json"):
        choose([model("none", 1)], "accuracy")
