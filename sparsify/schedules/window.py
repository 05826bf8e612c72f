"""A window: the part of a stage in which something happens, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.durations import Duration, PositiveDuration, longer
from sparsify.spec import Spec, fail_at


class Window(Spec):
    """When a modifier acts, relative to the stage that it stands in."""

    begin: Duration = Field(default=Duration(0), json_schema_extra={"default": "0 steps"})
    """The first update happens when this much of the stage is over."""

    end: PositiveDuration | None = None
    """The last update; by default the end of the stage."""

    every: PositiveDuration = Field(default=Duration(1), json_schema_extra={"default": "1 step"})
    """The time between two updates; the last one always happens at `end`."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for key, message in backwards(self.begin, self.end):
            raise fail_at("Window", (key,), message, None)
        end = self.end or _WHOLE
        if self.begin.amount == 0 or self.begin.unit == end.unit:
            length = Duration(round(end.amount - self.begin.amount, 9), end.unit)
            if length.amount and longer(self.every, length):
                message = f"an update every {self.every} is less often than once in the window, which lasts {length}"
                raise fail_at("Window", ("every",), message, None)
        return self


_WHOLE = Duration(100, "%")


def backwards(begin: Duration | None, end: Duration | None) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) for an end that no stage, however long, has after the beginning."""
    if begin is not None and end is not None and longer(begin, end):
        yield "begin", f"it begins at {begin}, after its end at {end}"


@dataclass(frozen=True)
class StepWindow:
    """A window resolved to optimizer steps of the whole run; updates at begin, begin + every, …, end."""

    begin: int
    end: int
    every: int

    def due(self, step: int) -> bool:
        """Whether an update is due when `step` steps are completed."""
        inside = self.begin <= step <= self.end
        return inside and ((step - self.begin) % self.every == 0 or step == self.end)

    def progress(self, step: int) -> float:
        """Return how much of the window is over, in [0, 1]; an empty window is over at once."""
        if self.end == self.begin:
            return 1.0 if step >= self.end else 0.0
        return min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)

    def updates(self) -> Iterator[int]:
        """Yield the steps at which updates are due."""
        yield from range(self.begin, self.end, self.every)
        yield self.end

    def sample(self, most: int) -> Iterator[int]:
        """Yield the steps of at most `most` (2 or more) updates, the first and the last among them, evenly spread."""
        count = self.count()
        if count <= most:
            yield from self.updates()
            return
        for index in range(most):
            yield min(self.begin + index * (count - 1) // (most - 1) * self.every, self.end)

    def count(self) -> int:
        """Return the number of updates."""
        return -(-(self.end - self.begin) // self.every) + 1
