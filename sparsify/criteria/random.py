"""Random: the baseline that every other criterion must beat."""

from __future__ import annotations

from typing import Annotated, Literal
from zlib import crc32

import torch
from pydantic import Field
from torch import Tensor

from sparsify.criteria.base import Criterion, Place
from sparsify.spec import integral

_WORD = 0xFFFFFFFF


class Random(Criterion):
    """score uniform in (0, 1], from the seed, the tensor's name and the weight's index; 0 where w = 0.

    The same on every device and in every process, without a generator whose state would have to be kept;
    weights that are zero already go first, so that a sparse model can be pruned on.
    """

    type: Literal["random"] = "random"

    seed: Annotated[int, Field(ge=0, le=2**31 - 1), integral] = 0
    """Another seed, another draw."""

    def score(self, weight: Tensor, place: Place) -> Tensor:
        key = crc32(f"{self.seed}/{place.name}".encode())
        noise = _mixed(_mixed(place.indices(weight)).add_(key).bitwise_and_(_WORD))
        uniform = (noise >> 8).add_(1).to(torch.float32).mul_(2.0**-24)
        return uniform.mul_(weight != 0)


def _mixed(number: Tensor) -> Tensor:
    """Return 32-bit integers (in int64) as another 32 bits, every bit depending on all.

    Source: Mueller's integer hash with the constants of Wellons, "Prospecting for Hash Functions" (2018):
    lowbias32.
    """
    number = number & _WORD
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ (number >> shift)).mul_(factor).bitwise_and_(_WORD)
    return number ^ (number >> 16)
