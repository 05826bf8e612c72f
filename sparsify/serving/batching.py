"""Put what comes in at the same time into batches, which one thread runs in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Run = Callable[[list[Any], Any], Sequence[Any]]
"""From items and what they are run with to as many results."""


class FullError(Exception):
    """More items than there is room for."""


class ClosedError(Exception):
    """No items are taken any more."""


@dataclass
class _Item:
    value: Any
    key: Hashable
    since: float
    answer: asyncio.Future[Any]


class Batcher:
    """A queue in front of a function over batches. Only items with equal keys share a batch; the oldest goes first.

    A batch starts when it has `most` items, or when its first item has waited `wait` seconds; while one runs, the next
    fills. At most `room` items wait. Where a batch of several raises, its items run one by one, so that one bad item
    does not spoil the others.
    """

    def __init__(
        self,
        run: Run,
        *,
        most: int,
        wait: float,
        room: int,
        ran: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._run, self._most, self._wait, self._room, self._ran = run, most, wait, room, ran
        self._waiting: deque[_Item] = deque()
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sparsify-batches")
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether no more items are taken."""
        return self._closed

    def start(self) -> None:
        """Begin to run batches, in the running event loop."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Take nothing more, run what waits, and stop."""
        self._closed = True
        self._more.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def submit(self, values: Sequence[Any], key: Hashable = None) -> list[Any]:
        """Return the results of some items. Raises FullError, ClosedError, and whatever the function raises.

        Items of a caller that has given up are not run.
        """
        if self._closed:
            raise ClosedError
        if len(self._waiting) + len(values) > self._room:
            raise FullError
        loop = asyncio.get_running_loop()
        mine = [_Item(value, key, loop.time(), loop.create_future()) for value in values]
        self._waiting.extend(mine)
        self._more.set()
        try:
            return list(await asyncio.gather(*(item.answer for item in mine)))
        finally:
            for item in mine:
                item.answer.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                if self._closed:
                    return
                self._more.clear()
                await self._more.wait()
            await self._fill()
            if batch := self._take():
                self._ran(len(batch))
                results = await loop.run_in_executor(self._thread, self._results, batch)
                for item, result in zip(batch, results, strict=True):
                    _settle(item.answer, result)

    async def _fill(self) -> None:
        """Wait until the oldest item's batch is full, or it has waited long enough."""
        loop = asyncio.get_running_loop()
        until = self._waiting[0].since + self._wait
        while not self._closed and self._ready() < self._most and (left := until - loop.time()) > 0:
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), left)
            except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                return

    def _ready(self) -> int:
        return sum(item.key == self._waiting[0].key for item in self._waiting)

    def _take(self) -> list[_Item]:
        """Take the oldest item and those that can go with it; what nobody waits for is thrown away."""
        live = [item for item in self._waiting if not item.answer.done()]
        batch = [item for item in live if item.key == live[0].key][: self._most]
        taken = {id(item) for item in batch}
        self._waiting = deque(item for item in live if id(item) not in taken)
        return batch

    def _results(self, batch: list[_Item]) -> list[Any]:
        """Run a batch; an exception stands for the result of its item."""
        try:
            results = list(self._run([item.value for item in batch], batch[0].key))
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
            return results
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [self._results([item])[0] for item in batch]


def _settle(answer: asyncio.Future[Any], result: Any) -> None:
    if answer.done():  # the caller has given up
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
