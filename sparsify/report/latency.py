"""Latency, with the dense model beside it in the same run."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

from sparsify.progress import task

ROUNDS = 30
WARM_UP = 5

Call = Callable[[], object]


def interleaved(calls: Sequence[Call], rounds: int = ROUNDS) -> list[float]:
    """Return the median seconds of each call; one of each per round, so that all meet the same noise."""
    return [statistics.median(spent) for spent in timed(calls, rounds)]


def timed(
    calls: Sequence[Call],
    most: int = ROUNDS,
    *,
    least: int = 1,
    seconds: float = float("inf"),
    warm_up: int = WARM_UP,
    what: str = "measuring",
) -> list[list[float]]:
    """Return the seconds of each call in each round, after a warm-up that is not counted.

    There are `most` rounds; or, once `seconds` have passed, as many as were made by then, but `least`. In a round each
    has its turn, in an order that is drawn anew (always the same draws): what comes after a long product was measured
    to be a tenth slower than what comes after a short one. In its turn each is called twice, and the second is timed:
    the first pays for what another one left in the caches.
    """
    for _ in range(warm_up):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    draws = random.Random(0)
    begin, told = time.perf_counter(), 0.0
    with task(what, 1.0) as advance:
        for number in range(most):
            gone = time.perf_counter() - begin
            if number >= least and gone > seconds:
                break
            part = min(max(number / most, gone / seconds if seconds else 1.0), 1.0)
            advance(part - told)
            told = part
            for place in draws.sample(range(len(calls)), len(calls)):
                calls[place]()
                start = time.perf_counter()
                calls[place]()
                times[place].append(time.perf_counter() - start)
    return times
