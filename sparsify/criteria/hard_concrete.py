"""Hard concrete: L0 regularisation through gates that are sampled."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sparsify.criteria.learned import Gated, Positive, sigmoid_slope

EDGE = 1e-4
"""Noise stays so far from 0 and 1."""
OPEN = math.log(9.0)
"""The score of a gate that is 0.98 open: the published start."""


class HardConcrete(Gated):
    """z = clip(s·(ζ − γ) + γ, 0, 1), s = σ((log u − log(1 − u) + S) ÷ β), u uniform; W′ = W ⊙ z while it learns.

    Evaluated without noise: s = σ(S). The penalty is the expected number of open gates, σ(S − β·log(−γ ÷ ζ)). When the
    window ends, closed gates stay closed and the others are multiplied into their weights: what is left is binary.
    Source: Louizos, Welling & Kingma, "Learning Sparse Neural Networks through L0 Regularization" (2018), §2.2 and 2.3.
    """

    type: Literal["hard-concrete"] = "hard-concrete"
    stochastic = True

    scale: Positive = 2.0
    """What a `magnitude` start is multiplied with: wide enough that not all gates stand half open at once."""

    offset: float = OPEN
    """What is added to the start. The published start, a gate open to 0.98, is ln 9 with `init: constant`."""

    learning_rate: Positive = 1e-1
    """The learning rate of the scores (not of your optimizer)."""

    beta: Positive = 2 / 3
    """β, the temperature."""

    gamma: Annotated[float, Field(lt=0)] = -0.1
    """γ, the lower end of the stretched interval."""

    zeta: Annotated[float, Field(gt=1)] = 1.1
    """ζ, its upper end."""

    def cut(self, threshold: float) -> float:
        return math.log(-self.gamma / self.zeta)

    def pressure_point(self, cut: float) -> float:
        return OPEN  # the penalty is flat there: what pushes hard enough at the cut would leave open gates open

    def penalized(self, scores: Tensor) -> Tensor:
        return (scores - self.beta * math.log(-self.gamma / self.zeta)).sigmoid_()

    def slope(self, scores: Tensor) -> Tensor:
        return sigmoid_slope(self.penalized(scores))

    def gates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return self._clipped(scores.sigmoid(), 1.0)

    def sample(self, scores: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        logistic = noise.clamp(EDGE, 1 - EDGE).logit_()  # log u − log(1 − u)
        return self._clipped(logistic.add_(scores).div_(self.beta).sigmoid_(), self.beta)

    def _clipped(self, s: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """Return stretched and clipped gates, and their derivatives by the score; 0 where clipped."""
        width = self.zeta - self.gamma
        slopes = sigmoid_slope(s).mul_(width / beta)
        stretched = s.mul_(width).add_(self.gamma)
        inside = (stretched > 0).logical_and_(stretched < 1)
        return stretched.clamp_(0, 1), slopes.mul_(inside)
