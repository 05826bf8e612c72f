"""The constant curve: everything at the beginning of the window."""

from typing import ClassVar, Literal

from sparsify.schedules.base import Curve


class Constant(Curve):
    """One shot: the final value from the first step of the window on."""

    type: Literal["constant"] = "constant"
    jumps: ClassVar[bool] = True

    def fraction(self, progress: float) -> float:
        return 1.0
