"""Numbers as planes of bytes: the bit pattern, turned by one to the left, cut into bytes.

Turned so, the sign comes last and a float's exponent fills the first byte (float32, bfloat16: exactly; float16: with
three bits of the mantissa; float64: eight of its eleven bits). The plane of first bytes compresses, the others hardly
ever do. No pattern is treated specially: −0.0 and NaN with any payload come back as they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[Any]
"""Bit patterns, unsigned integers of 2, 4 or 8 bytes."""

UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits_of(tensor: Tensor) -> Bits:
    """Return the bit patterns of a tensor of any shape, flat; sharing its memory where it is contiguous."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    if flat.dtype.is_complex:
        flat = torch.view_as_real(flat).view(-1).view(torch.int64)
    size = flat.element_size()
    return np.asarray(flat.view(_SIGNED[size]).numpy()).view(UNSIGNED[size])


def tensor_of(bits: Bits, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor with these bit patterns; sharing their memory."""
    if dtype == torch.bool and bits.size and int(bits.max()) > 1:
        raise ValueError("a bool that is neither 0 nor 1")
    signed = torch.from_numpy(bits.view(np.dtype(f"i{bits.itemsize}") if bits.itemsize > 1 else np.uint8))
    return signed.view(dtype).view(shape)


def split(bits: Bits) -> list[Bytes]:
    """Return a plane for each byte of the numbers, the first (exponents) first."""
    width = 8 * bits.itemsize
    turned = (bits << bits.dtype.type(1)) | (bits >> bits.dtype.type(width - 1))
    table = turned.astype(turned.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1, bits.itemsize)
    return [np.ascontiguousarray(table[:, place]) for place in reversed(range(bits.itemsize))]


def join(planes: list[Bytes]) -> Bits:
    """Return the numbers of which these are the planes."""
    kind = UNSIGNED[len(planes)]
    turned: Bits = planes[0].astype(kind)
    for plane in planes[1:]:
        turned <<= kind(8)
        turned |= plane
    bits: Bits = turned >> kind(1)
    turned <<= kind(8 * len(planes) - 1)
    bits |= turned
    return bits


def exponents(bits: Bits, name: str) -> npt.NDArray[np.int64]:
    """Return the exponent fields of numbers of a type, for counting; `name` is the type's."""
    width = exponent_bits(name)
    mantissa = 8 * bits.itemsize - 1 - width
    kind = bits.dtype.type
    fields: npt.NDArray[np.int64] = ((bits >> kind(mantissa)) & kind((1 << width) - 1)).astype(np.int64)
    return fields


def exponent_bits(name: str) -> int:
    """Return how many bits of a floating-point type are its exponent."""
    return {"float64": 11, "float32": 8, "bfloat16": 8, "float16": 5}[name]
