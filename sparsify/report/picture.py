"""Pictures of a run: sparsity and metric over time, and sparsity by role and layer, or by tensor. PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sparsify.density import Count
from sparsify.report import figures
from sparsify.report.figures import BLUE, GREY, ORANGE
from sparsify.report.panels import Panel

MOST_ROWS, MOST_COLUMNS = 200, 200
"""Tensors or roles, and layers, that are drawn; the table has all."""

Points = Sequence[tuple[int, float]]
"""(completed steps, value)."""


@dataclass(frozen=True)
class Curves:
    """What is drawn over optimizer steps."""

    sparsity: Points = ()
    target: Points = ()
    metric: Points = ()
    metric_name: str = "accuracy"
    reference: float | None = None
    """The dense model's metric, drawn as a line."""

    @property
    def drawable(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.sparsity or self.target or self.metric)


@dataclass(frozen=True)
class Picture:
    """A figure, drawn when it is asked for."""

    make: Callable[[bool], Any] = field(repr=False)
    """Returns the figure, with or without its panels."""

    @cached_property
    def png(self) -> bytes:
        """The whole picture."""
        with figures.drawing():
            return figures.render(self.make(True), "png")

    @cached_property
    def svg(self) -> str:
        """The picture without its panels: a page has drawings of its own for them, which tell more."""
        with figures.drawing():
            return figures.render(self.make(False), "svg").decode()


def draw(
    title: str,
    curves: Curves,
    tensors: Mapping[str, Count],
    grid: Mapping[str, Mapping[str, Count]] | None = None,
    panels: Sequence[Panel] = (),
) -> Picture:
    """Draw the schedule with the metric above, if there is one, and `panels` below.

    Between them is `grid` (role → layer → count), or a bar for every tensor.
    """
    return Picture(lambda whole: _figure(title, curves, tensors, grid, panels if whole else ()))


def _figure(
    title: str,
    curves: Curves,
    tensors: Mapping[str, Count],
    grid: Mapping[str, Mapping[str, Count]] | None,
    panels: Sequence[Panel],
) -> Any:
    from matplotlib.figure import Figure

    lines = min(len(grid), MOST_ROWS) * 1.8 if grid else min(len(tensors), MOST_ROWS)
    below = 0.22 * max(lines, 4)
    counts = Panel(below + 0.6, lambda axes: _grid(axes, grid) if grid else _tensors(axes, tensors))
    over_time = [Panel(3.2, lambda axes: _schedule(axes, curves))] if curves.drawable else []
    parts = [*over_time, counts, *panels]
    heights = [part.height for part in parts]
    figure = Figure(figsize=(10, sum(heights) + 0.4), dpi=120, layout="constrained")
    rows = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(figures.title(title), fontweight="bold")
    for part, axes in zip(parts, rows, strict=True):
        part.draw(axes)
    return figure


def _percent(digits: int) -> Any:
    return lambda value, _: f"{value:.{digits}%}"


def _schedule(axes: Any, curves: Curves) -> None:
    if curves.target:
        axes.plot(*zip(*curves.target, strict=True), color=GREY, linewidth=4, alpha=0.4, label="sparsity asked for")
    if curves.sparsity:
        axes.plot(*zip(*curves.sparsity, strict=True), color=BLUE, label="sparsity in the masks")
    axes.set(xlabel="optimizer step", ylabel="sparsity", ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(_percent(0))
    axes.xaxis.get_major_locator().set_params(integer=True)
    handles = list(axes.get_lines())
    if curves.metric:
        beside = axes.twinx()
        points = zip(*curves.metric, strict=True)
        name = figures.word(curves.metric_name)
        beside.plot(*points, color=ORANGE, marker="o", markersize=3, label=name)
        if curves.reference is not None:
            beside.axhline(curves.reference, color=ORANGE, linestyle=":", label=f"{name}, dense")
        beside.set_ylabel(name)
        beside.yaxis.set_major_formatter(_percent(1))
        handles += beside.get_lines()
    if handles:
        axes.legend(handles, [line.get_label() for line in handles], loc="lower right", frameon=False)


def _tensors(axes: Any, tensors: Mapping[str, Count]) -> None:
    names = list(tensors)[:MOST_ROWS][::-1]
    values = [tensors[name].sparsity for name in names]
    bars = axes.barh(range(len(names)), values, color=BLUE, height=0.7)
    axes.set_yticks(range(len(names)), list(map(figures.label, names)))
    axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=8, color=GREY)
    axes.set(xlim=(0, 1.08), xlabel="zeros in the tensor")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.01)


def _grid(axes: Any, grid: Mapping[str, Mapping[str, Count]]) -> None:
    """Draw a field for every role and layer, the darker the sparser, with the figure in it."""
    roles = list(grid)[:MOST_ROWS]
    layers = list(dict.fromkeys(layer for row in grid.values() for layer in row))[:MOST_COLUMNS]
    for y, role in enumerate(roles):
        for x, layer in enumerate(layers):
            count = grid[role].get(layer)
            if count is None:
                continue
            value = count.sparsity
            axes.add_patch(_square(x, y, value))
            ink = "white" if value > 0.55 else "black"
            size = 9 if len(layers) <= 12 else 6
            axes.text(x, y, f"{100 * value:.1f}", ha="center", va="center", fontsize=size, color=ink)
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(len(roles) - 0.5, -0.5), xlabel="layer; zeros in percent")
    axes.set_xticks(range(len(layers)), list(map(figures.word, layers)))
    axes.set_yticks(range(len(roles)), list(map(figures.word, roles)))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _square(x: int, y: int, value: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=BLUE, alpha=0.06 + 0.94 * value, linewidth=0)
