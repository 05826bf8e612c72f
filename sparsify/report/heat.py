"""Zeros by role and layer as fields of colour, each with its number; or, of an unknown model, by tensor as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsify.density import Count
from sparsify.report import figures
from sparsify.report.figures import BLUE, FAINT, FIELD, INK
from sparsify.report.panels import Panel
from sparsify.report.shades import DARK, MAP, Shades, shades

MOST_ROWS, MOST_COLUMNS = 200, 200
"""Tensors or roles, and layers, that are drawn; the table has all."""

Grid = Mapping[str, Mapping[str, Count]]
"""Role → layer → count."""


def of_grid(grid: Grid) -> Panel:
    """Return a field for every role and layer: the darker, the fewer weights are left; grey where nothing is zero."""
    roles = list(grid)[:MOST_ROWS]
    layers = list(dict.fromkeys(layer for row in grid.values() for layer in row))[:MOST_COLUMNS]
    fields = {
        (x, y): grid[role][layer].sparsity
        for y, role in enumerate(roles)
        for x, layer in enumerate(layers)
        if layer in grid[role]
    }
    scale = shades(fields.values())

    def draw(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        size = 9 if len(layers) <= 12 else 6
        for (x, y), value in fields.items():
            colour = _colour(scale, value)
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, linewidth=0))
            ink = INK if value == 0 else "white" if scale.place(value) > DARK else "black"
            axes.text(x, y, f"{100 * value:.1f}", ha="center", va="center", fontsize=size, color=ink)
        grey = "; grey: no zeros" if 0 in fields.values() else ""
        axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(len(roles) - 0.5, -0.5))
        axes.set_xlabel(f"layer; zeros in percent{grey}")
        axes.set_xticks(range(len(layers)), list(map(figures.word, layers)))
        axes.set_yticks(range(len(roles)), list(map(figures.word, roles)))
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if any(fields.values()):
            _legend(axes, scale)

    return Panel(0.4 * max(len(roles), 2) + 1.1, draw)


def of_tensors(tensors: Mapping[str, Count]) -> Panel:
    """Return a bar for every tensor."""
    names = list(tensors)[:MOST_ROWS][::-1]
    values = [tensors[name].sparsity for name in names]

    def draw(axes: Any) -> None:
        bars = axes.barh(range(len(names)), values, color=BLUE, height=0.7)
        axes.set_yticks(range(len(names)), list(map(figures.label, names)))
        axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=8, color=FAINT)
        axes.set(xlim=(0, 1.08), xlabel="zeros in the tensor")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
        axes.tick_params(axis="y", labelsize=8)
        axes.margins(y=0.01)

    return Panel(0.22 * max(len(names), 4) + 0.6, draw)


def _colour(scale: Shades, sparsity: float) -> Any:
    from matplotlib import colormaps

    return colormaps[MAP](scale.place(sparsity)) if sparsity > 0 else FIELD


def _legend(axes: Any, scale: Shades) -> None:
    """Draw the scale below the fields."""
    from matplotlib.cm import ScalarMappable

    bar = axes.figure.colorbar(
        ScalarMappable(cmap=MAP), ax=axes, orientation="horizontal", fraction=0.06, aspect=60, pad=0.02
    )
    places, sparsities = zip(*scale.marks(), strict=True)
    bar.set_ticks(places, labels=[f"{value:.1%}" for value in sparsities])
    bar.ax.tick_params(labelsize=8, length=0)
    bar.outline.set_visible(False)
    bar.set_label("zeros; each equal step of colour divides the weights that are left by the same factor", fontsize=8)
