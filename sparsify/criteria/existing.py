"""Existing: the pattern lock. What is zero stays zero."""

from typing import ClassVar, Literal

from torch import Tensor

from sparsify.criteria.base import Criterion


class Existing(Criterion):
    """score = 1 where w ≠ 0, else 0; the mask keeps exactly what is non-zero when the window opens.

    Takes no `sparsity`: it is the one that is there (unknown in a plan without weights).
    """

    type: Literal["existing"] = "existing"
    keeps_zeros: ClassVar[bool] = True

    def score(self, weight: Tensor) -> Tensor:
        return (weight != 0).to(weight.dtype)
