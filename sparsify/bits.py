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


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Return the sum of a tensor's bits, taken as 64-bit words, modulo 2⁶⁴. It reads memory once, at full speed.

    Equal tensors agree, on any device; changed ones hardly ever do, unless words have changed places.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = data.numel() // 8 * 8
    words, rest = data[:whole].view(torch.int64), data[whole:]
    tail = sum(int(byte) << 8 * place for place, byte in enumerate(rest.tolist()))
    return (int(words.sum()) + tail) % 2**64


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """Return a checksum that also sees whether the first elements have changed places: for files, not for each step."""
    data = bits(tensor.contiguous().view(-1)[:4096])
    places = torch.arange(1, 1 + data.numel(), device=data.device, dtype=torch.int64)
    return checksum(tensor) ^ (int((data.to(torch.int64) * places).sum()) % 2**64)
