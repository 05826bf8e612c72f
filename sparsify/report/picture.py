"""The picture of a run: metric and sparsity over time, zeros by role and layer, and what died. PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sparsify.density import Count
from sparsify.report import figures
from sparsify.report.curves import Curves
from sparsify.report.heat import Grid, of_grid, of_tensors
from sparsify.report.panels import Panel


@dataclass(frozen=True)
class Picture:
    """A figure, drawn when it is asked for."""

    make: Callable[[bool], Any] = field(repr=False)
    """Returns the figure; for a page (False) without its title and what the page draws itself."""

    @cached_property
    def png(self) -> bytes:
        """The whole picture."""
        with figures.drawing():
            return figures.render(self.make(True), "png")

    @cached_property
    def svg(self) -> str:
        """The picture for a page: narrower, in the page's own colours."""
        with figures.drawing():
            return figures.for_page(figures.render(self.make(False), "svg").decode())


def draw(
    title: str,
    curves: Curves,
    tensors: Mapping[str, Count],
    grid: Grid | None = None,
    panels: Sequence[Panel] = (),
) -> Picture:
    """Draw the metric, if there is one, above the sparsity over time, and `panels` below.

    Between them is `grid` (role → layer → count), or a bar for every tensor.
    """
    parts = [*curves.panels(), of_grid(grid) if grid else of_tensors(tensors)]
    return Picture(lambda whole: _figure(title if whole else "", [*parts, *panels] if whole else parts, whole))


def _figure(title: str, parts: Sequence[Panel], whole: bool) -> Any:
    from matplotlib.figure import Figure

    heights = [part.height for part in parts]
    width = figures.WIDE if whole else figures.NARROW
    figure = Figure(figsize=(width, sum(heights) + 0.4 * bool(title)), dpi=120, layout="constrained")
    rows = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    if title:
        figure.suptitle(figures.title(title), fontweight="bold")
    for part, axes in zip(parts, rows, strict=True):
        part.draw(axes)
    return figure
