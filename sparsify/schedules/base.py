"""The family of curves: how a quantity goes from its start to its end while progress goes from 0 to 1."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from typing_extensions import Self

from sparsify.spec import Family, fail

TRIED = 64
"""Into so many parts progress is divided to see whether a curve stays within its ends and never falls."""


class Curve(Family):
    """The shape of a ramp. A member defines `fraction`, or overrides `value` where ends matter."""

    family: ClassVar[str] = "curve"
    jumps: ClassVar[bool] = False
    """True for a curve that is meant to be a cliff, so that the plan does not complain of one."""

    once: ClassVar[bool] = False
    """True for a curve that has one update, at the beginning of its window."""

    @model_validator(mode="after")
    def _rises_from_0_to_1(self) -> Self:
        """Refuse a curve of somebody's own that would miss what the recipe promises."""
        if type(self).fraction is Curve.fraction:
            return self
        before = 0.0
        for part in range(1, TRIED):
            progress = part / TRIED
            found = self.fraction(progress)
            if not 0 <= found <= 1:
                raise fail(f"curve '{self.type}': fraction({progress:.3g}) is {found:.4g}; it must lie between 0 and 1")
            if found < before - 1e-9:
                raise fail(
                    f"curve '{self.type}': it falls from {before:.4g} to {found:.4g} at fraction({progress:.3g}); it "
                    "must rise from 0 to 1"
                )
            before = found
        return self

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
