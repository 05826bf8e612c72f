"""The cosine curve: gentle at both ends."""

import math
from typing import Literal

from sparsify.schedules.base import Curve


class Cosine(Curve):
    """Slow, fast, slow: s = from + (to − from)·(1 − cos πp)/2.

    Half a period, as learning rates use it (Loshchilov & Hutter, "SGDR", 2017, eq. 5). Neural Compressor's
    `cos` is a quarter of one, slow at the start only.
    """

    type: Literal["cosine"] = "cosine"

    def fraction(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2
