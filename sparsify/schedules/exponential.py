"""The exponential curve: the same part of what is left at every update."""

from typing import Literal

from sparsify.schedules.base import Curve


class Exponential(Curve):
    """The density shrinks by equal factors: 1 − s = (1 − from)·((1 − to)/(1 − from))^p.

    Source: Neural Compressor's `exp`; NNCF's exponential scheduler. A target of 1 is reached at the end only.
    """

    type: Literal["exponential"] = "exponential"

    def value(self, progress: float, start: float, end: float) -> float:
        if progress >= 1 or start >= 1:
            return end
        if progress <= 0:
            return start
        return float(min(max(1 - (1 - start) * ((1 - end) / (1 - start)) ** progress, start), end))
