"""What died as a whole, drawn with matplotlib: parts of a picture below its curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsify.report import figures
from sparsify.report.cards import Card, groups_of
from sparsify.report.cells import Cells
from sparsify.report.dots import opacity
from sparsify.report.drawn import Place
from sparsify.report.figures import BLUE, FIELD, GREY
from sparsify.report.maps import begins_block, columns_of
from sparsify.report.widths import Widths

ACROSS_HEADS, ACROSS_MAPS = 36, 10
"""Places from left to right in a picture: fewer are drawn as large, and leave room."""

GROUP_GAP = 0.3
"""Widths of a head between groups."""


@dataclass(frozen=True)
class Panel:
    """A part of a picture: so many inches high, drawn on axes of its own."""

    height: float
    draw: Callable[[Any], None]


def of_card(card: Card, note: str = "") -> Panel:
    """Return the card of heads: holes are dead ones."""

    def draw(axes: Any) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        whole, holes, lines = [], [], []
        for y, row in enumerate(card.rows):
            size, dead = row.total // max(row.groups, 1), set(row.dead)

            def at(head: int, size: int = size, grouped: bool = bool(row.groups)) -> float:
                return head + (head // size * GROUP_GAP if grouped else 0)

            whole += [Rectangle((at(head) - 0.45, y - 0.42), 0.9, 0.78) for head in range(row.total)]
            holes += [Rectangle((at(head) - 0.2, y - 0.32), 0.4, 0.58) for head in dead]
            lines += [
                Rectangle((at(first) - 0.45, y + 0.4), size - 0.1, 0.08) for first, lives in groups_of(row) if lives
            ]
            axes.text(at(row.total - 1) + 0.8, y, f"{row.alive} of {row.total}", va="center", fontsize=8, color=GREY)
        for patches, colour in ((whole, BLUE), (holes, "white"), (lines, BLUE)):
            axes.add_collection(PatchCollection(patches, facecolor=colour, linewidth=0))
        right = max(card.width * (1 + GROUP_GAP * any(row.groups for row in card.rows)), ACROSS_HEADS)
        shared = "; over a line: one key/value head" if lines else ""
        _bare(axes, f"heads{f' of {card.name}' if card.name else ''}: holes are dead{shared}", note)
        axes.set(xlim=(-0.6, right + 4), ylim=(len(card.rows) - 0.4, -0.6), ylabel="layer")
        axes.set_xticks([])
        axes.set_yticks(range(len(card.rows)), [figures.word(row.layer) for row in card.rows], fontsize=8)

    return Panel(0.5 + 0.24 * len(card.rows), draw)


def of_widths(found: Widths) -> Panel:
    """Return bars of living units beside all of them."""

    def draw(axes: Any) -> None:
        places = range(len(found.layers))
        axes.barh(places, [each.total for each in found.layers], color=FIELD, height=0.7)
        axes.barh(places, [each.alive for each in found.layers], color=BLUE, height=0.7)
        for y, each in enumerate(found.layers):
            words = f" {each.alive:,} of {each.total:,}"
            axes.text(each.total, y, words, va="center", fontsize=8, color=GREY)
        _bare(axes, f"{found.kind} alive", found.note)
        axes.set(xlim=(0, max(found.most, 1) * 1.18), ylim=(len(found.layers) - 0.4, -0.6), ylabel="layer")
        axes.set_xticks([])
        axes.set_yticks(places, [figures.word(each.layer) for each in found.layers], fontsize=8)

    return Panel(0.5 + 0.2 * max(len(found.layers), 2), draw)


def of_maps(stack: str, maps: list[tuple[Place, Cells]], note: str = "") -> Panel:
    """Return the maps of blocks of a stack, in rows of layers and columns of roles."""
    columns = columns_of(maps)
    layers = list(dict.fromkeys(place.layer for place, _ in maps))

    def draw(axes: Any) -> None:
        from matplotlib.patches import Rectangle

        across = {column: number for number, column in enumerate(columns)}
        down = {layer: number for number, layer in enumerate(layers)}
        for place, cells in maps:
            x, y = across[place.column], down[place.layer]
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, facecolor=FIELD, linewidth=0, zorder=0))
            extent = (x - 0.46, x + 0.46, y + 0.46, y - 0.46)
            axes.imshow(_coloured(cells), extent=extent, interpolation="nearest", aspect="auto", zorder=1)
        _bare(axes, f"blocks{f' of {stack}' if stack else ''}: the stronger the colour, the less is zero", note)
        axes.set(xlim=(-0.5, max(len(columns), ACROSS_MAPS) - 0.5), ylim=(len(layers) - 0.5, -0.5), ylabel="layer")
        begins = begins_block(columns)
        blocks = [figures.word(place.block) if place in begins else "" for place in columns.values()]
        names = [f"{place.short_role}\n{block}" for place, block in zip(columns.values(), blocks, strict=True)]
        axes.set_xticks(range(len(columns)), names, fontsize=8)
        axes.set_yticks(range(len(layers)), list(map(figures.word, layers)), fontsize=8)

    return Panel(0.7 + 0.8 * len(layers), draw)


def _coloured(cells: Cells) -> Any:
    """Return pixels [down, across, 4] in 0…1."""
    import numpy as np
    from matplotlib.colors import to_rgba

    alpha = opacity(cells.density()).numpy()
    pixels = np.empty((*alpha.shape, 4))
    pixels[...] = to_rgba(BLUE)
    pixels[..., 3] = alpha
    return pixels


def _bare(axes: Any, title: str, note: str) -> None:
    """Leave nothing around but names."""
    axes.set_title(figures.title(f"{title} ({note})" if note else title), fontsize=10, loc="left")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
