"""How the command line shows long work: a bar with the time left on a terminal, else a line now and then; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparsify import progress, ranks
from sparsify.cli import console
from sparsify.escaping import one_line
from sparsify.progress import Advance, told

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def watched() -> Iterator[None]:
    """Show what is worked on while a command runs, unless it is to be quiet."""
    if console.is_quiet() or ranks.launched_as():
        yield
        return
    if not sys.stderr.isatty():
        with progress.shown_by(Lines()):
            yield
        return
    bars = Bars()
    try:
        with progress.shown_by(bars):
            yield
    finally:
        bars.progress.stop()  # an error ends tasks in the middle


class Bars:
    """A bar for each task at work; they are gone when it is done."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TaskProgressColumn())
        times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
        text = TextColumn("{task.fields[text]}", markup=False)
        self.progress = Progress(*columns, *times, text, console=console.Terminal(stderr=True), transient=True)
        self.running = 0

    @contextmanager
    def __call__(self, what: str, total: float | None) -> Iterator[Advance]:
        """Show a task."""
        bar = self.progress.add_task(one_line(what, console.LONGEST), total=total, text="")
        self.running += 1
        if self.running == 1:
            self.progress.start()

        def advance(amount: float = 1, text: str = "") -> None:
            self.progress.update(bar, advance=amount, text=one_line(text, console.LONGEST))

        try:
            yield advance
        finally:
            self.running -= 1
            if not self.running:
                self.progress.stop()
            self.progress.remove_task(bar)


class Lines:
    """A plain line for the task at work, at most every `EVERY` seconds; quick work says nothing."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    @contextmanager
    def __call__(self, what: str, total: float | None) -> Iterator[Advance]:
        """Tell of a task."""
        begun, done = time.monotonic(), 0.0
        if begun - self.last >= EVERY:
            self.last = begun
            console.say(f"{what} …", err=True)

        def advance(amount: float = 1, text: str = "") -> None:
            nonlocal done
            done += amount
            now = time.monotonic()
            if now - self.last >= EVERY:
                self.last = now
                console.say(f"{what}: {told(done, total, now - begun)}{f'; {text}' if text else ''}", err=True)

        yield advance
