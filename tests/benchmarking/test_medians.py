"""Medians, quartiles, and the interval of a ratio."""

from __future__ import annotations

import random
from math import comb

import pytest

from sparsify.benchmarking.medians import CONFIDENCE, LEAST, Ratio, left_out, ratio_of, spread_of


def test_a_spread_is_a_median_between_quartiles() -> None:
    found = spread_of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)


def test_the_ratio_is_that_of_the_rounds_not_of_the_medians() -> None:
    """A machine that gets slower and slower: each round says 2, whatever it costs."""
    reference = [2.0 * 1.5**number for number in range(9)]
    assert ratio_of(reference, [seconds / 2 for seconds in reference]) == Ratio(median=2.0, low=2.0, high=2.0)


def test_the_interval_lies_between_sorted_ratios() -> None:
    found = ratio_of([float(number) for number in range(1, 11)], [1.0] * 10)
    assert (found.median, found.low, found.high) == (5.5, 2.0, 9.0)  # tables of the sign test: 2nd and 9th of ten
    assert not found.open
    assert Ratio(median=1.1, low=0.9, high=1.2).open


def test_as_many_are_left_out_as_the_confidence_allows() -> None:
    assert [left_out(count) for count in (6, 8, 9, 11, 12, 15, 20, 25, 30)] == [0, 0, 1, 1, 2, 3, 5, 7, 9]
    for count in range(LEAST, 200):
        left = left_out(count)

        def outside(left: int, count: int = count) -> float:
            return 2 * sum(comb(count, k) for k in range(left + 1)) / 2**count

        assert outside(left) <= 1 - CONFIDENCE < outside(left + 1)
    with pytest.raises(ValueError, match="5 values are too few: 6 at least"):
        left_out(5)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Whatever the noise is like: here one round of four is disturbed by up to ten times."""
    chance = random.Random(0)

    def seconds() -> float:
        return chance.uniform(1, 1.2) * (chance.uniform(1, 10) if chance.random() < 0.25 else 1)

    found = [ratio_of([seconds() for _ in range(15)], [seconds() for _ in range(15)]) for _ in range(2000)]
    assert CONFIDENCE <= sum(ratio.open for ratio in found) / len(found) <= 0.99  # 96.5 % by the binomial numbers
