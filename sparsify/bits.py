"""Tensors as their bits: floating-point numbers seen as integers of the same width."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """Return a view of a floating-point tensor as integers of the same size; detached, sharing memory."""
    return tensor.detach().view(_INTEGERS[tensor.element_size()])


def key(score: float, dtype: torch.dtype) -> int:
    """Return an integer that orders as the numbers of a floating `dtype` do; both zeros have one key."""
    pattern = bits(torch.tensor(score + 0.0, dtype=dtype))
    value = int(pattern)
    return value if value >= 0 else torch.iinfo(pattern.dtype).min - value


def unkey(value: int, dtype: torch.dtype) -> float:
    """Return the number whose `key` is `value`."""
    integer = _INTEGERS[dtype.itemsize]
    pattern = value if value >= 0 else torch.iinfo(integer).min - value
    return float(torch.tensor(pattern, dtype=integer).view(dtype))
