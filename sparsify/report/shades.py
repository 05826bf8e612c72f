"""Colours of sparsities: by the logarithm of the weights that are left, so that 88 and 91 % look different."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MAP = "YlGnBu"
"""matplotlib's colours, from light (least zeros) to dark."""

NARROWEST = 1.0
"""Powers of two that the scale covers at least: sparsities that hardly differ get colours that hardly differ."""

DARK = 0.55
"""The place on the scale from which on text is white."""

MARKS = 5


@dataclass(frozen=True)
class Shades:
    """A scale from 0 to 1. Equal steps on it are equal factors of weights that are left, whatever the sparsity."""

    low: float
    high: float
    """Its ends, as powers of two by which weights are fewer: 1 is half of them, 2 a quarter."""

    def place(self, sparsity: float) -> float:
        """Return where a sparsity stands, 0…1; what lies beyond an end stands at that end."""
        if sparsity >= 1:
            return 1.0
        return min(max((_bits(sparsity) - self.low) / (self.high - self.low), 0.0), 1.0)

    def marks(self) -> list[tuple[float, float]]:
        """Return (place, sparsity) of the marks of a legend, evenly spaced."""
        places = [number / (MARKS - 1) for number in range(MARKS)]
        return [(place, 1 - 2.0 ** -(self.low + place * (self.high - self.low))) for place in places]


def shades(sparsities: Iterable[float]) -> Shades:
    """Return the scale of some sparsities, from the least to the most.

    What has no zero at all, or nothing else, does not stretch it: the first has a colour of its own, the second the
    darkest one.
    """
    found = [_bits(sparsity) for sparsity in sparsities if 0 < sparsity < 1]
    low, high = min(found, default=0.0), max(found, default=NARROWEST)
    room = max(NARROWEST - (high - low), 0.0) / 2
    low = max(low - room, 0.0)
    return Shades(low, max(high + room, low + NARROWEST))


def _bits(sparsity: float) -> float:
    return -math.log2(1 - sparsity)
