"""Colours of sparsities: near ones differ where they matter, equal ones do not, and nothing stretches the scale."""

from __future__ import annotations

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify.density import Count
from sparsify.report.curves import Curves
from sparsify.report.heat import of_grid
from sparsify.report.picture import draw
from sparsify.report.shades import MAP, shades
from tests.drawn import examples

SPARSITIES = st.lists(st.floats(0, 1), max_size=20)


def luminance(place: float) -> float:
    red, green, blue, _ = matplotlib.colormaps[MAP](place)
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


@pytest.mark.parametrize("others", [[], [0.0], [1.0], [0.5], [0.0, 0.3, 1.0], [0.95]])
def test_88_and_91_look_different(others: list[float]) -> None:
    """Whatever else is drawn beside them: dense and dead fields too, which every model may have."""
    scale = shades([0.88, 0.91, *others])
    assert luminance(scale.place(0.88)) - luminance(scale.place(0.91)) > 0.06


def test_what_hardly_differs_looks_alike() -> None:
    scale = shades([0.899, 0.9, 0.901])
    assert scale.place(0.901) - scale.place(0.899) < 0.05


def test_the_scale_is_of_what_is_left() -> None:
    """From 50 to 75 % half of the weights go, as from 75 to 87.5 %."""
    scale = shades([0.5, 0.75, 0.875])
    assert [scale.place(value) for value in (0.5, 0.75, 0.875)] == [0, 0.5, 1]
    assert [value for _, value in scale.marks()][::2] == pytest.approx([0.5, 0.75, 0.875])
    assert scale.place(1.0) == 1
    assert scale.place(0.0) == 0


@examples(100)
@given(SPARSITIES)
def test_places_rise_with_sparsity(found: list[float]) -> None:
    scale = shades(found)
    places = [scale.place(value) for value in sorted(found)]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    marks = scale.marks()
    assert all(0 <= sparsity < 1 for _, sparsity in marks)
    assert [scale.place(sparsity) for _, sparsity in marks] == pytest.approx([place for place, _ in marks], abs=1e-6)


def test_fields_have_the_colours_of_the_scale() -> None:
    from matplotlib.figure import Figure

    grid = {"a": {"0": Count(100, 12), "1": Count(100, 9)}, "b": {"0": Count(100, 100), "2": Count(100, 0)}}
    axes = Figure().subplots()
    of_grid(grid).draw(axes)
    colours = {text.get_text(): patch.get_facecolor() for text, patch in zip(axes.texts, axes.patches, strict=True)}
    assert set(colours) == {"88.0", "91.0", "0.0", "100.0"}, "a role without that layer has no field"
    assert len(set(colours.values())) == 4
    svg = draw("title", Curves(), {}, grid).svg
    assert svg.startswith("<svg")
    assert "var(--field)" in svg, "dense fields have the ground of the page"
    assert "var(--ink)" in svg
    assert "title" not in svg.split("<metadata>")[-1].split("</metadata>")[-1], "a page has its own"
