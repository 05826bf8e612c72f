"""What many timings say: a median, how far they scatter, and how sure a ratio of two is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import comb
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CONFIDENCE = 0.95
LEAST = 6
"""Rounds below which no interval holds the median in 95 of 100 runs: of five, the outermost two do in 94."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Spread(BaseModel):
    """A median between the quartiles."""

    model_config = ConfigDict(frozen=True, strict=True)

    median: Positive
    low: Positive
    high: Positive


class Ratio(BaseModel):
    """How many times as fast: the median of what each round gave, and its interval of 95 %."""

    model_config = ConfigDict(frozen=True, strict=True)

    median: Positive
    low: Positive
    high: Positive

    @property
    def open(self) -> bool:
        """Whether the interval includes 1: this run can tell no difference."""
        return self.low <= 1 <= self.high


def spread_of(values: Sequence[float]) -> Spread:
    """Return median and quartiles (by linear interpolation) of two values or more."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high)


def ratio_of(reference: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return how many times as fast `other` is, from seconds of the same rounds, `LEAST` or more.

    The interval lies between two of the sorted ratios, the same number from either end, and holds the true median in
    `CONFIDENCE` of all such runs, whatever the noise is like, as long as rounds do not hang together.
    """
    ratios = sorted(a / b for a, b in zip(reference, other, strict=True))
    left = left_out(len(ratios))
    return Ratio(median=statistics.median(ratios), low=ratios[left], high=ratios[-1 - left])


def left_out(count: int) -> int:
    """Return how many of `count` sorted values may be left out at either end of the interval.

    Raises ValueError below `LEAST`.
    """
    if count < LEAST:
        raise ValueError(f"{count} values are too few: {LEAST} at least")
    outside, left = 0.0, -1
    while 2 * (outside := outside + comb(count, left + 1) / 2**count) <= 1 - CONFIDENCE:
        left += 1
    return left
