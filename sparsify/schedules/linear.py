"""The linear curve."""

from typing import Literal

from sparsify.schedules.base import Curve


class Linear(Curve):
    """Equal steps: s = from + (to − from)·p."""

    type: Literal["linear"] = "linear"

    def fraction(self, progress: float) -> float:
        return progress
