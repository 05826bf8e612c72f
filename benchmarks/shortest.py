"""The shortest time of each of several calls, for benchmarks of the engine: what else a machine does only adds."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

from sparsify.report.latency import timed


def best(calls: dict[str, Callable[[], object]], asked: argparse.Namespace) -> dict[str, float]:
    """Return the shortest time of each call, one of each in a round.

    `asked` says how many `rounds` and `seconds`, and whether `processor_time` of this process counts.
    """
    if not asked.processor_time:
        spent = timed(list(calls.values()), asked.rounds, least=3, seconds=asked.seconds, warm_up=1)
        return {name: min(each) for name, each in zip(calls, spent, strict=True)}
    found = dict.fromkeys(calls, math.inf)
    begin = time.process_time()
    for number in range(asked.rounds):
        if number >= 3 and time.process_time() - begin > asked.seconds:
            break
        for name, call in calls.items():
            call()
            start = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - start)
    return found
