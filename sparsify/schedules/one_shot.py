"""The one-shot curve: everything at the beginning of the window, once."""

from typing import ClassVar, Literal

from sparsify.schedules.base import Curve


class OneShot(Curve):
    """The final value at the first step of the window; it has no other update, and no end."""

    type: Literal["one-shot"] = "one-shot"
    jumps: ClassVar[bool] = True
    once: ClassVar[bool] = True

    def fraction(self, progress: float) -> float:
        return 1.0
