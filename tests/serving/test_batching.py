"""What comes in together runs together; one bad item, a full queue, a caller that gives up, a stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sparsify.serving.batching import Batcher, ClosedError, FullError


class Doubler:
    """Doubles numbers, keeps its batches; waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], Any]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items: list[int], key: Any) -> list[int]:
        assert self.free.wait(30)
        self.batches.append((list(items), key))
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items if item != 7]


def run(work: Callable[[Batcher, Doubler], Awaitable[None]], **limits: Any) -> Doubler:
    double = Doubler()

    async def all_of_it() -> None:
        batcher = Batcher(double, **{"most": 4, "wait": 0.0, "room": 100, **limits})
        batcher.start()
        try:
            await work(batcher, double)
        finally:
            double.free.set()
            await batcher.close()

    asyncio.run(all_of_it())
    return double


def test_many_requests_share_batches_and_each_gets_its_own_answers():
    async def work(batcher: Batcher, double: Doubler) -> None:
        found = await asyncio.gather(*(batcher.submit([3 * n + 10, 3 * n + 11, 3 * n + 12]) for n in range(7)))
        assert found == [[6 * n + 20, 6 * n + 22, 6 * n + 24] for n in range(7)]

    double = run(work)
    assert sorted(item for items, _ in double.batches for item in items) == list(range(10, 31))
    assert max(len(items) for items, _ in double.batches) == 4


def test_a_batch_waits_for_others_and_no_longer_once_it_is_full():
    async def work(batcher: Batcher, double: Doubler) -> None:
        async def late() -> list[int]:
            await asyncio.sleep(0.01)
            return await batcher.submit([2, 3, 4])

        assert await asyncio.gather(batcher.submit([1]), late()) == [[2], [4, 6, 8]]

    assert run(work, wait=60.0).batches == [([1, 2, 3, 4], None)]


def test_only_equal_keys_share_a_batch_and_the_oldest_goes_first():
    async def work(batcher: Batcher, double: Doubler) -> None:
        double.free.clear()
        first = asyncio.ensure_future(batcher.submit([0]))
        await asyncio.sleep(0.02)  # it runs; the others wait
        rest = [asyncio.ensure_future(batcher.submit([n], key)) for n, key in ((1, "a"), (2, "b"), (3, "a"))]
        await asyncio.sleep(0.02)
        double.free.set()
        assert await asyncio.gather(first, *rest) == [[0], [2], [4], [6]]

    assert run(work).batches == [([0], None), ([1, 3], "a"), ([2], "b")]


def test_a_bad_item_fails_alone():
    async def work(batcher: Batcher, double: Doubler) -> None:
        double.free.clear()
        first = asyncio.ensure_future(batcher.submit([9]))
        await asyncio.sleep(0.02)
        good, bad = asyncio.ensure_future(batcher.submit([1, 2])), asyncio.ensure_future(batcher.submit([-1]))
        await asyncio.sleep(0.02)
        double.free.set()
        assert await good == [2, 4]
        with pytest.raises(ValueError, match="negative"):
            await bad
        assert await first == [18]

    assert run(work).batches[1:] == [([1, 2, -1], None), ([1], None), ([2], None), ([-1], None)]


def test_too_few_results_are_an_error_and_the_next_batch_runs():
    async def work(batcher: Batcher, double: Doubler) -> None:
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit([7])
        assert await batcher.submit([1]) == [2]

    run(work)


def test_a_request_is_taken_whole_or_refused_whole():
    async def work(batcher: Batcher, double: Doubler) -> None:
        double.free.clear()
        running = asyncio.ensure_future(batcher.submit([0]))
        await asyncio.sleep(0.02)
        waiting = asyncio.ensure_future(batcher.submit([1, 2]))
        await asyncio.sleep(0.02)
        with pytest.raises(FullError):
            await batcher.submit([3, 4])
        assert len(batcher) == 2
        double.free.set()
        assert await asyncio.gather(running, waiting) == [[0], [2, 4]]

    run(work, room=3)


def test_what_a_caller_has_given_up_is_not_run():
    async def work(batcher: Batcher, double: Doubler) -> None:
        double.free.clear()
        running = asyncio.ensure_future(batcher.submit([0]))
        await asyncio.sleep(0.02)
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(batcher.submit([1]), 0.01)
        kept = asyncio.ensure_future(batcher.submit([2]))
        await asyncio.sleep(0.02)
        double.free.set()
        assert await asyncio.gather(running, kept) == [[0], [4]]

    assert [items for items, _ in run(work).batches] == [[0], [2]]


def test_a_stop_answers_what_waits_and_takes_nothing_more():
    async def work(batcher: Batcher, double: Doubler) -> None:
        double.free.clear()
        taken = [asyncio.ensure_future(batcher.submit([n])) for n in range(6)]
        await asyncio.sleep(0.02)
        stop = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0.02)
        with pytest.raises(ClosedError):
            await batcher.submit([9])
        double.free.set()
        assert await asyncio.gather(*taken) == [[2 * n] for n in range(6)]
        await stop

    run(work)
