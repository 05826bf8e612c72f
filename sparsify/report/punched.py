"""A card of heads, punched where one is dead: a row a layer, a column a head. Inline SVG."""

from __future__ import annotations

from sparsify.report import marks
from sparsify.report.cards import Card, groups_of
from sparsify.report.living import Units

CELL, GAP, TOP, RIGHT = 20, 6, 26, 64
"""Pixels: a head, between groups, above the rows, beside them."""


def punched(card: Card) -> str:
    """Return the card. Heads that share key and value stand together over a line, which is broken where none lives."""
    left = marks.margin(row.layer for row in card.rows)
    grouped = any(row.groups for row in card.rows)
    height = CELL + (8 if grouped else 2)
    width = left + max(_at(row, row.total) for row in card.rows) + RIGHT
    tops = {row.layer: TOP + place * height for place, row in enumerate(card.rows)}
    parts = marks.layer_names(left, {layer: top + 14 for layer, top in tops.items()}, 16)
    widest = max(card.rows, key=lambda row: row.total)
    step = 1 if card.width <= 32 else 4
    parts += [
        marks.words(left + _at(widest, head) + CELL / 2, 16, f"{head}", "faint", "middle")
        for head in range(0, widest.total, step)
    ]
    for row in card.rows:
        parts += _row(row, left, tops[row.layer])
    label = f"heads{f' of {card.name}' if card.name else ''}: {sum(r.alive for r in card.rows)} alive"
    return marks.drawing(width, TOP + height * len(card.rows) + 4, label, parts)


def _row(row: Units, left: float, y: float) -> list[str]:
    where = f"layer {row.layer}{f' {row.block}' if row.block else ''}"
    parts = []
    dead = set(row.dead)
    for head in range(row.total):
        x, gone = left + _at(row, head), head in dead
        hint = f"{where}, head {head}: {'dead' if gone else 'alive'}"
        # a hole is narrower than its place, so that the card is seen around it
        parts.append(marks.box(x + 1, y, CELL - 2, CELL - 2, "card", hint, 2))
        if gone:
            parts.append(marks.box(x + 6, y + 2, CELL - 12, CELL - 6, "hole", hint, 2))
    size = row.total // max(row.groups, 1)
    for group, (first, lives) in enumerate(groups_of(row)):
        hint = f"{where}, key/value head {group}: {'alive' if lives else 'dead'}"
        start, end = left + _at(row, first), left + _at(row, first + size - 1) + CELL
        parts.append(marks.box(start + 1, y + CELL - 1, end - start - 2, 3, "card" if lives else "edge", hint, 1))
    end = left + _at(row, row.total)
    return [*parts, marks.words(end + 6, y + 14, f"{row.alive} of {row.total}", "faint")]


def _at(row: Units, head: int) -> float:
    """Return where a head begins, from the first one: groups stand apart."""
    return head * CELL + (head // (row.total // row.groups) * GAP if row.groups else 0)
