"""Widths of layers as bars: what lives, beside what there was. Inline SVG."""

from __future__ import annotations

from sparsify.report import marks
from sparsify.report.widths import Widths

LONGEST, HEIGHT, RIGHT = 200, 18, 96
"""Pixels: the longest bar, a row, beside the bars."""


def bars(found: Widths) -> str:
    """Return a row for every layer."""
    left = marks.margin(each.layer for each in found.layers)
    scale = LONGEST / max(found.most, 1)
    heights = {each.layer: 30 + place * HEIGHT for place, each in enumerate(found.layers)}
    parts = marks.layer_names(left, heights, 12)
    for each in found.layers:
        y = heights[each.layer] - 12
        parts.append(marks.box(left, y + 2, each.total * scale, HEIGHT - 5, "ground", each.hint, 2))
        if each.alive:
            parts.append(marks.box(left, y + 2, each.alive * scale, HEIGHT - 5, "card", each.hint, 2))
        end = left + each.total * scale
        parts.append(marks.words(end + 6, y + 12, f"{each.alive:,} of {each.total:,}", "faint"))
    return marks.drawing(left + LONGEST + RIGHT, 22 + HEIGHT * len(found.layers), f"{found.kind} alive", parts)
