"""Rounds: everyone has a turn in each, in an order that favours nobody."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from sparsify.report import latency
from sparsify.report.latency import WARM_UP, interleaved, timed


class Clock:
    """A clock that calls move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def call(self, name: str, first: float, again: float) -> None:
        """Take longer where somebody else came before."""
        self.now += again if self.said[-1:] == [name] else first
        self.said.append(name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "time", made)
    return made


def test_the_second_call_of_a_turn_is_timed(clock: Clock) -> None:
    calls = [lambda: clock.call("a", 5.0, 1.0), lambda: clock.call("b", 7.0, 2.0)]
    assert timed(calls, 4) == [[1.0] * 4, [2.0] * 4]
    assert interleaved(calls, 4) == [1.0, 2.0]


def test_all_have_their_turn_in_an_order_that_is_drawn(clock: Clock) -> None:
    calls = [lambda name=name: clock.call(name, 1.0, 1.0) for name in "abc"]  # type: ignore[misc]
    timed(calls, 60)
    turns = clock.said[3 * WARM_UP :: 2]
    rounds = [turns[begin : begin + 3] for begin in range(0, 180, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    before = Counter(one for one, other in pairwise(turns) if other == "a" and one != "a")
    assert min(before["b"], before["c"]) > 15, "what came before it is not always the same"


def test_rounds_end_with_the_time_but_not_before_the_least(clock: Clock) -> None:
    calls = [lambda: clock.call("a", 1.0, 1.0)]
    assert len(timed(calls, 100, least=6, seconds=0)[0]) == 6
    assert len(timed(calls, 100, least=6, seconds=19)[0]) == 10
    assert len(timed(calls, 8, least=6, seconds=1000)[0]) == 8
