"""Random: the baseline that every other criterion must beat."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sparsify.criteria.base import Criterion, Place
from sparsify.criteria.noise import uniform
from sparsify.spec import integral


class Random(Criterion):
    """score uniform in (0, 1], from the seed, the tensor's name and the weight's index; 0 where w = 0.

    The same on every device and in every process, without a generator whose state would have to be kept;
    weights that are zero already go first, so that a sparse model can be pruned on.
    """

    type: Literal["random"] = "random"

    seed: Annotated[int, Field(ge=0, le=2**31 - 1), integral] = 0
    """Another seed gives other scores."""

    def score(self, weight: Tensor, place: Place) -> Tensor:
        return uniform(self.seed, weight, place).mul_(weight != 0)
