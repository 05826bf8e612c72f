"""How far long work is: who works says it, who looks on shows it. Nothing is shown unless somebody asked for it.

```python
with progress.task("packing", total=len(tensors)) as advance:
    for tensor in tensors:
        …
        advance()
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Advance(Protocol):
    """Says that so much of a task is done, and (optionally) what is seen at the moment."""

    def __call__(self, amount: float = 1, text: str = "") -> None: ...


Show = Callable[[str, float | None], AbstractContextManager[Advance]]
"""From what is done, and how much there is to do (None where nobody knows), to a task on display."""


@contextmanager
def _unseen(what: str, total: float | None) -> Iterator[Advance]:
    yield lambda amount=1, text="": None


_show: ContextVar[Show] = ContextVar("show", default=_unseen)


def task(what: str, total: float | None = None) -> AbstractContextManager[Advance]:
    """Return a task that is on display while the block runs; `total` is in whatever unit `advance` is given."""
    return _show.get()(what, total)


def each(what: str, items: Sequence[T], size: Callable[[T], float] = lambda item: 1) -> Iterator[T]:
    """Yield items; each counts as done, with its size, when the next one is asked for."""
    with task(what, sum(map(size, items))) as advance:
        for item in items:
            yield item
            advance(size(item))


def counted(
    what: str, items: Iterable[T], total: float | None, size: Callable[[T], float] = lambda item: 1
) -> Iterator[T]:
    """Yield items of which there is no list; `total` is the sum of their sizes, if it is known."""
    with task(what, total) as advance:
        for item in items:
            yield item
            advance(size(item))


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Show tasks with `show` while the block runs."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def told(done: float, total: float | None, seconds: float) -> str:
    """Return how far a task is, in words."""
    gone = f"{duration(seconds)} gone"
    if not total or done <= 0:
        return gone
    part = min(done / total, 1.0)
    return f"{part:.0%}, {gone}, about {duration(seconds * (1 - part) / part)} left"


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
