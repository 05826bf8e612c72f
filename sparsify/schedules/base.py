"""The family of curves: how a quantity goes from its start to its end while progress goes from 0 to 1."""

from __future__ import annotations

from typing import ClassVar

from sparsify.spec import Family


class Curve(Family):
    """The shape of a ramp. A member defines `fraction`, or overrides `value` where ends matter."""

    family: ClassVar[str] = "curve"
    jumps: ClassVar[bool] = False
    """True for a curve that is meant to be a cliff, so that the plan does not complain of one."""

    once: ClassVar[bool] = False
    """True for a curve that has one update, at the beginning of its window."""

    def fraction(self, progress: float) -> float:
        """Return the part of the way that is done, in [0, 1], at `progress` in (0, 1); monotone."""
        raise NotImplementedError(type(self).__name__)

    def value(self, progress: float, start: float, end: float) -> float:
        """Return the value at `progress`: exactly `start` up to 0 and exactly `end` from 1 on.

        Examples:
            >>> cubic = Curve.parse("cubic")
            >>> [round(cubic.value(progress, 0.0, 0.8), 3) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
            [0.0, 0.463, 0.7, 0.788, 0.8]
        """
        if progress >= 1:
            return end
        if progress <= 0 and not self.jumps:
            return start
        fraction = self.fraction(progress)
        return end if fraction == 1 else start + (end - start) * fraction  # the sum may miss it by a rounding
