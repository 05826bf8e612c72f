"""The constant curve: the whole sparsity all through the window."""

from typing import ClassVar, Literal

from sparsify.schedules.base import Curve


class Constant(Curve):
    """The final value from the first step of the window on.

    With an `end`, weights are ranked anew at every update; without, once, at the beginning.
    """

    type: Literal["constant"] = "constant"
    jumps: ClassVar[bool] = True

    def fraction(self, progress: float) -> float:
        return 1.0
