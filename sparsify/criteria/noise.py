"""Noise without a generator: a hash of seed, name and index. The same on every device and in every process."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from sparsify.criteria.base import Place

_WORD = 0xFFFFFFFF


def uniform(seed: int, piece: Tensor, place: Place) -> Tensor:
    """Return float32 noise of the shape of `piece`, uniform in (0, 1]; there is no state to keep."""
    key = crc32(f"{seed}/{place.name}".encode())
    noise = _mixed(_mixed(place.indices(piece)).add_(key).bitwise_and_(_WORD))
    return (noise >> 8).add_(1).to(torch.float32).mul_(2.0**-24)


def _mixed(number: Tensor) -> Tensor:
    """Return 32-bit integers (in int64) as another 32 bits, every bit depending on all.

    Source: Mueller's integer hash with the constants of Wellons, "Prospecting for Hash Functions" (2018):
    lowbias32.
    """
    number = number & _WORD
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ (number >> shift)).mul_(factor).bitwise_and_(_WORD)
    return number ^ (number >> 16)
