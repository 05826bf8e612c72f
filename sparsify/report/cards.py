"""The heads that are drawn: a card for each kind of attention block of each stack, a row for each layer."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify.report.living import Living, Units
from sparsify.report.spread import left_out, spread

MOST_HEADS, MOST_ROWS = 8000, 64
"""Heads, and rows of heads, that are drawn of a model."""


@dataclass(frozen=True)
class Card:
    """The heads of blocks that follow each other."""

    name: str
    """Stack and block; empty where the model has one of either."""

    rows: tuple[Units, ...]

    @property
    def width(self) -> int:
        """The most heads of a row."""
        return max((row.total for row in self.rows), default=0)


def cards(living: Living) -> tuple[list[Card], str]:
    """Return the cards of a model, and the note on layers that are not drawn; no card where all heads live."""
    blocks = living.of("heads")
    if not any(each.dead for each in blocks):  # heads that are gone have no number any more: widths tell of them
        return [], ""
    shown = spread(blocks, min(MOST_HEADS // max(1, *(each.total for each in blocks)), MOST_ROWS))
    found: dict[str, list[Units]] = {}
    for each in shown:
        found.setdefault(f"{each.stack} {each.block}".strip(), []).append(each)
    return [Card(name, tuple(rows)) for name, rows in found.items()], left_out(
        len(shown), len(blocks), "attention blocks"
    )


def groups_of(row: Units) -> list[tuple[int, bool]]:
    """Return (first head, whether it lives) of each key and value head of a row; none where every head has its own."""
    if not row.groups:
        return []
    size, gone = row.total // row.groups, set(row.dead_groups())
    return [(group * size, group not in gone) for group in range(row.groups)]
