"""Values as integers of eight or four bits with a scale for each group: smaller, and no longer the same.

Groups are runs of the numbers that are kept, in the order of the tensor. A scale is the largest magnitude of its
group ÷ 127 (or 7), as a bfloat16 rounded up, so that no integer overflows; zero is zero (symmetric). A number that
would become zero takes the smallest step instead, so that what is kept stays kept; −0.0 becomes +0.0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsify.storage.planes import Bytes

LARGEST = {"int8": 127, "int4": 7}
SCALE_SIZE = 2
"""Bytes of a scale."""

Ints = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Cut:
    """Integers, one a number, and bfloat16 scales, one a group, as their bits."""

    integers: Ints
    scales: npt.NDArray[np.uint16]


def cut(values: Tensor, kind: str, group: int) -> Cut:
    """Return finite numbers [k] of float32 or less as integers. `kind` is int8 or int4."""
    most = LARGEST[kind]
    wide = values.to(torch.float64).numpy()
    padded = np.zeros(-(-len(wide) // group) * group)
    padded[: len(wide)] = wide
    table = padded.reshape(-1, group)
    scales = _rounded_up(np.abs(table).max(1, initial=0) / most)
    steps = np.where(scales > 0, scales, 1)[:, None]
    whole = np.rint(table / steps)
    whole = np.where((whole == 0) & (table != 0), np.sign(table), whole)
    integers = np.clip(whole, -most, most).astype(np.int8).reshape(-1)[: len(wide)]
    return Cut(integers, (scales.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16))


def _rounded_up(scales: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return positive numbers as the next bfloat16 that is not smaller."""
    near = scales.astype(np.float32)
    near = np.where(near < scales, np.nextafter(near, np.float32(np.inf)), near)
    bits = near.view(np.uint32)
    up = (bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    wide: npt.NDArray[np.float64] = up.view(np.float32).astype(np.float64)
    return wide


def numbers(integers: Ints, scales: npt.NDArray[np.uint16], group: int, dtype: torch.dtype) -> Tensor:
    """Return integers × scales as numbers of a type [k]; computed in float32."""
    wide = (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)
    product = integers.astype(np.float32)
    whole = len(product) // group * group
    with np.errstate(over="ignore", invalid="ignore"):  # scales of a file may be anything
        product[:whole].reshape(-1, group)[:] *= wide[: whole // group, None]
        if whole < len(product):
            product[whole:] *= wide[-1]
    return torch.from_numpy(product).to(dtype)


def scale_count(kept: int, group: int) -> int:
    """Return how many groups there are."""
    return -(-kept // group)


def to_bytes(integers: Ints, kind: str) -> Bytes:
    """Return integers as bytes; those of four bits two a byte, the first in the lower half."""
    if kind == "int8":
        return integers.view(np.uint8)
    halves = (integers & 15).astype(np.uint8)
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    joined: Bytes = halves[::2] | (halves[1::2] << np.uint8(4))
    return joined


def from_bytes(data: Bytes, kind: str, kept: int) -> Ints:
    """Return the integers of `to_bytes`."""
    if kind == "int8":
        return data.view(np.int8)
    halves = np.empty(2 * len(data), np.uint8)
    halves[::2], halves[1::2] = data & 15, data >> np.uint8(4)
    signed: Ints = (halves ^ np.uint8(8)).astype(np.int8) - np.int8(8)
    return signed[:kept]


def byte_count(kept: int, kind: str) -> int:
    """Return the bytes of so many integers."""
    return kept if kind == "int8" else -(-kept // 2)
