"""The multiple of the initial learning rate in every step of a window."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify.schedules.base import Curve
from sparsify.schedules.cosine import Cosine
from sparsify.schedules.linear import Linear
from sparsify.schedules.window import StepWindow

CURVES: dict[str, Curve] = {"linear": Linear(), "cosine": Cosine()}


@dataclass(frozen=True)
class Schedule:
    """A warm-up, then a curve that is walked `cycles` times. Without a curve it stays at `start`."""

    window: StepWindow
    warm: int
    """Steps of the warm-up."""

    cycles: int
    curve: Curve | None
    start: float
    end: float

    def at(self, step: int) -> float:
        """Return the multiple in the step that follows `step` completed ones, inside of the window.

        The warm-up neither begins at 0 nor repeats the first value of the curve; the value at the end belongs to the
        step after the last.
        """
        since = step - self.window.begin
        if since < self.warm:
            return self.start * (since + 1) / (self.warm + 1)
        length = self.window.end - self.window.begin - self.warm
        progress = (since - self.warm) * self.cycles % length / length
        return self.start if self.curve is None else self.curve.value(progress, self.start, self.end)
