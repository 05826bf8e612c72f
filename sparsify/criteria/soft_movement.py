"""Soft movement: a threshold on the score instead of a budget."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from sparsify.criteria.base import Place
from sparsify.criteria.learned import Gated, sigmoid_slope

FINAL = 0.1
"""The published threshold."""


class SoftMovement(Gated):
    """mask = σ(S) > τ, with a penalty on σ(S) that pushes scores below the threshold.

    A `magnitude` start is counted from the published threshold of 0.1, so that every group begins just above it.
    Source: Sanh, Wolf & Rush, "Movement Pruning" (2020), §4.2 (soft movement pruning).
    """

    type: Literal["soft-movement"] = "soft-movement"
    threshold: ClassVar[float | None] = FINAL

    def start(self, relative: Tensor, place: Place) -> Tensor:
        start = super().start(relative, place)
        return start + self.cut(FINAL) if self.init == "magnitude" else start

    def cut(self, threshold: float) -> float:
        return math.log(threshold / (1 - threshold)) if threshold > 0 else -math.inf

    def penalized(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()

    def slope(self, scores: Tensor) -> Tensor:
        return sigmoid_slope(scores.sigmoid())
