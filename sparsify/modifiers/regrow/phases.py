"""AC/DC: compressed and dense phases in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sparsify.schedules.window import StepWindow

Phase = Literal["before", "compressed", "dense", "final"]


@dataclass(frozen=True)
class Phases:
    """A compressed phase begins every `every` steps, and its last `dense` steps are dense; then sparse for good.

    Only whole periods are begun: what is left of the window after the last is dense, too, and at its end comes the last
    mask. So 90 % over 100 epochs, from 10 to 85 every 10 with 5 dense, is compressed from 10, 20, … 70 on for 5 each,
    dense from 75 to 85, and sparse from there on, as published.
    """

    window: StepWindow
    dense: int

    @property
    def periods(self) -> int:
        """How many compressed phases there are before the end."""
        return (self.window.end - self.window.begin) // self.window.every

    def at(self, step: int) -> Phase:
        """Return the phase when `step` steps are completed."""
        since, every = step - self.window.begin, self.window.every
        if since < 0:
            return "before"
        if step >= self.window.end:
            return "final"
        whole = since // every < self.periods
        return "compressed" if whole and since % every < every - self.dense else "dense"

    def changes(self, most: int) -> Iterator[tuple[int, Phase]]:
        """Yield (step, phase) where one begins, of at most about `most` evenly spread ones, the last among them."""
        stride = max(2 * self.periods // max(most, 1), 1)
        for period in range(0, self.periods, stride):
            begin = self.window.begin + period * self.window.every
            yield begin, "compressed"
            yield begin + self.window.every - self.dense, "dense"
        yield self.window.end, "final"
