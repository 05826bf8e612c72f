"""Maps of blocks: a small square for every matrix, a row a layer, a column a role; a pointer is told densities. SVG."""

from __future__ import annotations

import torch

from sparsify.report import marks
from sparsify.report.cells import Cells
from sparsify.report.dots import png
from sparsify.report.drawn import Maps, Place
from sparsify.report.figures import BLUE

SIDE, GAP, TOP, BLOCK = 48, 6, 20, 14
"""Pixels: a map, between maps, above them, above that where blocks have names."""

MOST_HINTS = 8000
"""Fields of all maps together that tell their density."""

SHADES = (0.0, 0.01, 0.1, 0.5, 1.0)
"""Densities that the legend shows."""

Column = tuple[str, str]


def drawn_maps(found: Maps) -> list[tuple[str, str]]:
    """Return (stack, drawing) of every stack."""
    factor = _factor(found)
    return [(stack, _grid(stack, maps, factor)) for stack, maps in found.stacks().items()]


def legend() -> str:
    """Return what the shades mean."""
    parts = []
    for number, value in enumerate(SHADES):
        x = 8 + number * 66
        parts += [
            marks.box(x, 2, 16, 16, "ground"),
            marks.picture(x, 2, 16, png(torch.tensor([[value]]), BLUE)),
            marks.words(x + 21, 14, f"{value:.0%}", "faint"),
        ]
    return marks.drawing(8 + 66 * len(SHADES), 20, "shades of densities", parts)


def columns_of(maps: list[tuple[Place, Cells]]) -> dict[Column, Place]:
    """Return the columns of a stack's maps, each with a place in it, in the order of the layer that has most."""
    rows: dict[str, list[Place]] = {}
    for place, _ in maps:
        rows.setdefault(place.layer, []).append(place)
    fullest_first = sorted(rows.values(), key=len, reverse=True)
    found: dict[Column, Place] = {}
    for place in (place for row in fullest_first for place in row):
        found.setdefault(place.column, place)
    return found


def begins_block(columns: dict[Column, Place]) -> list[Place]:
    """Return the first place of each block that has a name, in the order of columns."""
    found: dict[str, Place] = {}
    for place in columns.values():
        found.setdefault(place.block, place)
    return [place for block, place in found.items() if block]


def _factor(found: Maps) -> int:
    """Return how many cells a field with a hint is wide, so that there are not too many."""
    factor = 1
    while sum(-(-c.counts.shape[0] // factor) * -(-c.counts.shape[1] // factor) for _, c in found.maps) > MOST_HINTS:
        factor *= 2
    return factor


def _grid(stack: str, maps: list[tuple[Place, Cells]], factor: int) -> str:
    columns = columns_of(maps)
    across = {column: number for number, column in enumerate(columns)}
    layers = list(dict.fromkeys(place.layer for place, _ in maps))
    left, step = marks.margin(layers), SIDE + GAP
    top = TOP + BLOCK * any(block for block, _ in columns)
    down = {layer: top + row * step for row, layer in enumerate(layers)}
    parts = marks.layer_names(left, {layer: y + SIDE / 2 + 4 for layer, y in down.items()}, top - 6)
    parts += _heads(columns, left, top - 6, step)
    for place, cells in maps:
        parts += _map(place, cells, factor, left + across[place.column] * step, down[place.layer])
    label = f"density of matrices{f' of {stack}' if stack else ''}"
    return marks.drawing(left + step * len(columns) + 2, top + step * len(layers), label, parts)


def _heads(columns: dict[Column, Place], left: float, y: float, step: float) -> list[str]:
    """Return the names of columns: roles, and above them blocks where there are several."""
    parts, begins = [], begins_block(columns)
    for number, place in enumerate(columns.values()):
        x = left + number * step
        if place in begins:
            parts.append(marks.words(x, y - BLOCK, place.block, "faint", longest=24))
        parts.append(marks.words(x + SIDE / 2, y, place.short_role, "ink", "middle", 9))
    return parts


def _map(place: Place, cells: Cells, factor: int, x: float, y: float) -> list[str]:
    """Return a matrix: its ground, its cells, and over them fields that tell."""
    parts = [marks.box(x, y, SIDE, SIDE, "ground"), marks.picture(x, y, SIDE, png(cells.density(), BLUE))]
    fields = cells.coarser(factor)
    high, wide = (factor * SIDE / size for size in cells.counts.shape)
    for down, row in enumerate(fields.density().tolist()):
        for across, value in enumerate(row):
            top, bottom, start, end = fields.span(down, across)
            hint = f"{place}, rows {top}–{bottom} × columns {start}–{end}: {100 * value:.3g} % not zero"
            left, above = across * wide, down * high
            size = min(wide, SIDE - left), min(high, SIDE - above)
            parts.append(marks.box(x + left, y + above, *size, "clear", hint))
    return parts
