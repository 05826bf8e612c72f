"""A modifier over time, without a model: for pictures of a recipe."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from sparsify.schedules.window import StepWindow


@dataclass(frozen=True)
class Track:
    """The window of a modifier in steps of the whole run, and (step, sparsity) at (some of) its updates."""

    window: StepWindow
    points: tuple[tuple[int, float], ...] = ()
    """Empty where the sparsity depends on the weights, as with a lock, or where there is none."""

    words: str = "the zeros that are there"
    """What it does, where there are no points."""

    lasts: bool = True
    """Whether it goes on acting after its window."""

    def at(self, step: float) -> float | None:
        """Return the sparsity after `step` steps; None before the first update."""
        index = bisect_right(self.points, step, key=lambda point: point[0])
        return self.points[index - 1][1] if index else None
