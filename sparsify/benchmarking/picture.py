"""Pictures: how long each model took, and accuracy against size and speed with a Pareto line. PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from sparsify.benchmarking.pareto import front
from sparsify.benchmarking.points import LESS_IS_BETTER, Panel
from sparsify.benchmarking.results import Case, Result
from sparsify.benchmarking.tables import interval, milliseconds
from sparsify.report import figures
from sparsify.report.figures import BLUE, GREEN, GREY, INK, ORANGE
from sparsify.report.limits import limits, tick
from sparsify.report.picture import Picture

COLUMNS, MOST = 2, 12
"""Panels beside each other; panels and cases that are drawn."""
COLOURS = (BLUE, ORANGE, GREEN)
DENSE = GREY


def draw(title: str, result: Result | None, panels: Sequence[Panel] = (), metric: str = "") -> Picture:
    """Draw the times of `result`, a bar a model, engine and case; below them the panels, and whose their points are."""
    return Picture(lambda whole: _figure(title, result, panels, metric, COLUMNS if whole else 1))


def _figure(title: str, result: Result | None, panels: Sequence[Panel], metric: str, columns: int) -> Any:
    """Return the figure with panels in so many columns; with one, it is for a page, which has the title itself."""
    from matplotlib.figure import Figure

    cases, panels = (result.cases[:MOST] if result else []), list(panels)[:MOST]
    names = list(dict.fromkeys(name for panel in panels for name, _, _ in panel.points))
    heights = [0.9 + 0.32 * len(case.timings) for case in cases] + [3.6] * ceil(len(panels) / columns)
    if names:
        heights.append(0.2 * ceil(len(names) / columns))
    with figures.drawing():
        width = figures.WIDE if columns > 1 else figures.NARROW
        figure = Figure(figsize=(width, 0.6 + sum(heights)), dpi=120, layout="constrained")
        if columns > 1:
            figure.suptitle(figures.title(title), fontweight="bold")
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        for row, case in enumerate(cases):
            assert result is not None
            _bars(figure.add_subplot(grid[row, :]), result, case)
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            _panel(figure.add_subplot(grid[len(cases) + row, column]), panel, metric, names)
        if names:
            _names(figure.add_subplot(grid[-1, :]), names, columns)
        return figure


def _bars(axes: Any, result: Result, case: Case) -> None:
    """Draw medians in ms with their quartiles; the model that is compared with in grey."""
    timings = [case.timing(model.name, engine) for engine in result.engines for model in result.models]
    medians = [1000 * timing.seconds.median for timing in timings]
    below = [1000 * (timing.seconds.median - timing.seconds.low) for timing in timings]
    above = [1000 * (timing.seconds.high - timing.seconds.median) for timing in timings]
    engines = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(result.engines)}
    colours = [DENSE if timing.model == result.against else engines[timing.engine] for timing in timings]
    places = range(len(timings))
    axes.barh(places, medians, color=colours, height=0.7)
    axes.errorbar(medians, places, xerr=(below, above), fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    right = max(median + more for median, more in zip(medians, above, strict=True))
    for place, timing in zip(places, timings, strict=True):
        text = milliseconds(timing.seconds.median)
        if timing.speedup is not None:
            text += f" · × {interval(timing.speedup)}"
        axes.text(1000 * timing.seconds.high + 0.01 * right, place, text, va="center", fontsize=8)
    names = [f"{figures.word(timing.model)}, {timing.engine}" for timing in timings]
    axes.set_yticks(places, names, fontsize=8)
    axes.set(xlim=(0, 1.28 * right), xlabel="ms a forward: median and quartiles")
    axes.set_title(case.title, fontsize=10, loc="left")
    axes.invert_yaxis()


def _panel(axes: Any, panel: Panel, metric: str, names: Sequence[str]) -> None:
    """Draw points with their numbers, and the line of those that nothing beats."""
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set(xlabel=panel.axis, ylabel=figures.word(metric))
    points = [(x, y) for _, x, y in panel.points]
    if panel.reference is not None:
        axes.axhline(panel.reference, color=GREY, linestyle=":", zorder=0, label="model compared with")
    best = front(points, small_x=panel.small_x, small_y=metric in LESS_IS_BETTER)
    line = [points[place] for place in best]
    axes.plot(*zip(*line, strict=True), color=ORANGE, zorder=1, label="Pareto line")
    for place, ((name, *_), point) in enumerate(zip(panel.points, points, strict=True)):
        axes.scatter(*point, s=130, color=BLUE if place in best else GREY, edgecolor="white", zorder=2 + place)
        number = str(names.index(name) + 1)
        axes.text(*point, number, color="white", fontsize=7, ha="center", va="center_baseline", zorder=2 + place)
    axes.margins(x=0.1)
    axes.set_ylim(limits(metric, [y for _, y in points]))
    axes.yaxis.set_major_formatter(lambda value, _: tick(metric, value))
    axes.legend(loc="best", frameon=False, fontsize=8)


def _names(axes: Any, names: Sequence[str], columns: int) -> None:
    """Write whose the numbers are."""
    rows = ceil(len(names) / columns)
    for place, name in enumerate(names):
        column, row = divmod(place, rows)
        axes.text(column / columns, -row - 0.5, f"{place + 1}   {figures.label(name)}", va="center", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-rows, 0))
    axes.set_axis_off()
