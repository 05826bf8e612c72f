"""Existing: the pattern lock. What is zero stays zero."""

from typing import ClassVar, Literal

from torch import Tensor

from sparsify.criteria.base import Criterion, Place


class Existing(Criterion):
    """score = 1 where w ≠ 0, else 0; a group is kept if it has a weight that is not zero when the window opens.

    Takes no `sparsity`: it is the one that is there (unknown in a plan without weights).
    """

    type: Literal["existing"] = "existing"
    keeps_zeros: ClassVar[bool] = True

    def score(self, weight: Tensor, place: Place) -> Tensor:
        return (weight != 0).to(weight.dtype)
