"""Durations → optimizer steps. One clock: completed steps."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify.durations import Duration
from sparsify.schedules import Window
from sparsify.schedules.window import StepWindow


class ClockError(ValueError):
    """A duration that has no meaning here; `key` is the part of the window that is wrong."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Span:
    """A stretch of training: a stage, or the whole. `length` is None where the total is not known."""

    begin: int
    length: int | None
    steps_per_epoch: int | None

    @property
    def end(self) -> int | None:
        """Where it ends, in steps of the whole run; None where the total is not known."""
        return None if self.length is None else self.begin + self.length

    def steps(self, duration: Duration, key: str = "") -> int:
        """Return the duration in steps, rounded half to even. Raises ClockError."""
        if duration.unit == "steps":
            return int(duration.amount)
        if duration.unit == "epochs":
            if self.steps_per_epoch is None:
                raise ClockError(f"'{duration}' needs steps_per_epoch", key)
            return round(duration.amount * self.steps_per_epoch)
        if self.length is None:
            raise ClockError(f"'{duration}' needs total_steps", key)
        return round(duration.amount * self.length / 100)

    def window(self, window: Window) -> StepWindow:
        """Return a window in steps of the whole run. Raises ClockError for one that cannot be."""
        begin, every = self.steps(window.begin, "begin"), self.steps(window.every, "every")
        if window.end is None and self.length is None:
            raise ClockError("the window has no end, and total_steps is not known", "end")
        end = self.steps(window.end, "end") if window.end is not None else self.length or 0
        if self.length is not None:
            for key, step, written in (("begin", begin, window.begin), ("end", end, window.end)):
                if step > self.length:
                    raise ClockError(f"{_step(written, step)} lies beyond the stage's {self.length} steps", key)
        if begin > end:
            raise ClockError(f"the window begins at step {begin} and ends at step {end}", "begin")
        if every == 0:
            raise ClockError(f"'{window.every}' of the stage rounds to no step at all", "every")
        return StepWindow(self.begin + begin, self.begin + end, every)


def _step(duration: Duration | None, step: int) -> str:
    return f"'{duration}'" if duration is None or duration.unit == "steps" else f"'{duration}' (step {step})"
