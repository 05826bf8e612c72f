"""Magnitude: small weights matter least."""

from typing import Literal

from torch import Tensor

from sparsify.criteria.base import Criterion, Place


class Magnitude(Criterion):
    """score = |w|.

    Source: Han et al., "Learning both weights and connections" (2015); gradual: Zhu & Gupta (2017).
    """

    type: Literal["magnitude"] = "magnitude"

    def score(self, weight: Tensor, place: Place) -> Tensor:
        return weight.abs()
