"""The cubic curve of gradual magnitude pruning."""

from typing import Literal

from sparsify.schedules.base import Curve


class Cubic(Curve):
    """Fast at first, gentle at the end: s = to + (from − to)·(1 − p)³.

    Source: Zhu & Gupta, "To prune, or not to prune" (2017), equation 1.
    """

    type: Literal["cubic"] = "cubic"

    def fraction(self, progress: float) -> float:
        return float(1 - (1 - progress) ** 3)
