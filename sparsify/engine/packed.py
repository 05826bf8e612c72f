"""Weights in the form that the kernels read: a tensor of bytes, with a header that says what it is.

Zeros (of either sign) are not in it; what is NaN or infinite is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify.engine.library import checked, library
from sparsify.errors import KernelError

HEIGHTS = (1, 2, 4)
"""Rows that share their columns: 1 for unstructured zeros; 2 and 4 for blocks."""

_HEADER = struct.Struct("<QIIIIQQQQQ")
_MAGIC = 0x3157594653525053
FLOAT32 = 0


@dataclass(frozen=True)
class About:
    """What the header of a packed weight says."""

    rows: int
    columns: int
    height: int
    entries: int
    """Columns that are kept, over all groups of `height` rows."""

    bytes: int

    @property
    def values(self) -> int:
        """Numbers that are stored, the zeros among them that blocks bring along."""
        return self.entries * self.height


def pack(weight: Tensor, height: int = 1) -> Tensor:
    """Return a dense weight [rows, columns] of float32 on the CPU as uint8 [bytes].

    Raises KernelError for another type or shape, or a height that there is not.
    """
    if weight.dtype != torch.float32 or weight.dim() != 2 or weight.device.type != "cpu":
        raise KernelError(
            f"the engine packs matrices of float32 on the CPU, not {tuple(weight.shape)} of {weight.dtype} on the "
            f"{weight.device.type.upper()}"
        )
    weight = weight.detach()
    kept = weight != 0
    starts = torch.zeros(len(weight) + 1, dtype=torch.int64)
    torch.cumsum(kept.sum(1), 0, out=starts[1:])
    return from_rows(tuple(weight.shape), starts, kept.nonzero()[:, 1], weight[kept], height)


def from_rows(shape: tuple[int, ...], starts: Tensor, columns: Tensor, values: Tensor, height: int = 1) -> Tensor:
    """Return a matrix by rows (as `sparsify.storage` reads it) in the packed form: uint8 [bytes].

    `starts` [rows + 1] says where each row begins in `columns` and `values`. Raises KernelError for rows that do
    not fit.
    """
    if len(shape) != 2 or height not in HEIGHTS:
        raise KernelError(f"a matrix has two sizes, a group 1, 2 or 4 rows; got {tuple(shape)} and {height}")
    starts = starts.to(torch.int64).contiguous()
    columns = columns.to(torch.int32).contiguous()
    values = values.to(torch.float32).contiguous()
    if len(starts) != shape[0] + 1 or len(columns) != len(values) or int(starts[-1]) != len(values):
        raise KernelError(
            f"{len(starts)} starts, {len(columns)} columns and {len(values)} values are no {shape} matrix"
        )
    where = (*shape, starts.data_ptr(), columns.data_ptr())
    size = checked(library().sparsify_packed_bytes(*where, height))
    packed = torch.empty(size, dtype=torch.uint8)
    checked(library().sparsify_pack(*where, values.data_ptr(), FLOAT32, height, packed.data_ptr(), size))
    return packed


def about(packed: Tensor) -> About:
    """Return what the header says. Raises KernelError for what is no packed weight."""
    if packed.dtype != torch.uint8 or packed.numel() < _HEADER.size or packed.device.type != "cpu":
        raise KernelError("a packed weight is a tensor of bytes on the CPU (`sparsify.engine.pack` makes it)")
    fields = _HEADER.unpack(bytes(packed[: _HEADER.size].tolist()))
    magic, _, height, _, _, rows, columns, entries, size, _ = fields
    if magic != _MAGIC or size != packed.numel():
        raise KernelError("a packed weight is damaged, or is none")
    return About(rows, columns, height, entries, size)


def check(packed: Tensor) -> About:
    """Return what the header says, after a look at every number that the kernels trust. Raises KernelError."""
    found = about(packed)
    checked(library().sparsify_check(packed.data_ptr(), packed.numel()))
    return found


def unpack(packed: Tensor) -> Tensor:
    """Return the dense weight [rows, columns] of float32; every zero is +0.0. Raises KernelError."""
    found = check(packed)
    dense = torch.empty(found.rows, found.columns)
    checked(library().sparsify_unpack(packed.data_ptr(), packed.numel(), dense.data_ptr()))
    return dense
