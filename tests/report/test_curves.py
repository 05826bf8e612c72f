"""Curves and their axes: the dense model beside the metric, and no cliff where a point was lost."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsify.report.curves import Curves
from sparsify.report.limits import POINTS, limits, tick, written
from tests.drawn import examples

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10)


@examples(200)
@given(st.sampled_from(["accuracy", "spearman", "perplexity", "loss", "other"]), VALUES)
def test_axes_show_all_values(metric: str, values: list[float]) -> None:
    low, high = limits(metric, values)
    assert low < min(values) <= max(values) < high


@examples(100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_a_point_is_at_most_a_tenth(values: list[float]) -> None:
    low, high = limits("accuracy", values)
    assert high - low >= POINTS
    assert high <= 1.1
    assume(max(values) > 0)
    low, high = limits("loss", values)
    assert high - low >= 0.2 * max(values)


def test_numbers_are_those_of_the_metric() -> None:
    """A perplexity is no fraction: 20 is not 2,000 %."""
    assert written("accuracy", 0.9123) == "91.2%"
    assert written("perplexity", 20.31) == "20.31"
    assert tick("perplexity", 20.0) == "20"
    assert tick("f1", 0.9) == "90%"
    assert tick("f1", 1.02) == "", "there is nothing beyond 100 %"


def panels(curves: Curves) -> list[tuple[list[str], str, tuple[float, float]]]:
    """Return (legend, title, limits) of every panel."""
    from matplotlib.figure import Figure

    found = []
    for panel in curves.panels():
        axes = Figure().subplots()
        panel.draw(axes)
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        found.append((legend, axes.get_title(loc="left"), axes.get_ylim()))
        assert axes.get_xlim()[0] == 0
        assert len(axes.figure.axes) == 1, "one axis for each curve"
    return found


def test_the_dense_model_stands_beside_the_curve() -> None:
    curves = Curves([(1, 0.0), (20, 0.9)], [(1, 0.0)], [(10, 0.88), (20, 0.91)], "accuracy", 0.93)
    (metric, _, (low, high)), (sparsity, _, _) = panels(curves)
    assert metric == ["this model: 91.0% at the end", "dense model: 93.0%"]
    assert low < 0.88 < 0.93 < high
    assert sparsity == ["asked for", "in the masks"]
    alone = Curves([], [], [(10, 0.88)], "accuracy", None, "no dense model")
    assert panels(alone)[0][:2] == (["this model: 88.0% at the end"], "no dense model")


@pytest.mark.parametrize("curves", [Curves(), Curves(metric_name="loss", reference=0.5)])
def test_nothing_to_draw(curves: Curves) -> None:
    assert curves.panels() == []
