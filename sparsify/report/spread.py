"""Some of many, evenly spaced: what is drawn does not grow with the number of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return all items, or `most` of them (at least one) with the first and the last, evenly spaced."""
    most = max(most, 1)
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[0]]
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def left_out(shown: int, there: int, what: str) -> str:
    """Return the note on what is not drawn; empty if all is."""
    return f"{shown} of {there} {what} are drawn, evenly spaced" if shown < there else ""
