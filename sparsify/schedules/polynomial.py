"""The polynomial curve: the cubic one with a power of your choice."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sparsify.schedules.base import Curve


class Polynomial(Curve):
    """Fast at first for powers above 1: s = to + (from − to)·(1 − p)^power; power 1 is linear, 3 cubic."""

    type: Literal["polynomial"] = "polynomial"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"power": 2.0}, {"power": 0.5})

    power: Annotated[float, Field(gt=0, le=100)]
    """Above 1 most is pruned early, below 1 late."""

    def fraction(self, progress: float) -> float:
        return float(1 - (1 - progress) ** self.power)
