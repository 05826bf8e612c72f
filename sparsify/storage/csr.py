"""A tensor by rows: what is not zero, and in which column."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Csr:
    """A tensor as compressed sparse rows. The first dimension is the rows, the others together are the columns."""

    shape: tuple[int, ...]
    """Of the tensor itself."""

    starts: Tensor
    """Where each row begins in `columns` and `values`, and where the last ends: int64 [rows + 1]."""

    columns: Tensor
    """int32 where columns are fewer than 2³¹, else int64 [kept]."""

    values: Tensor
    """Numbers of the tensor's type, or int8 where they are stored as integers (of four bits, too) [kept]."""

    scales: Tensor | None = None
    """float32, one for each `group` of values that follow each other; None where values are the numbers themselves."""

    group: int = 0

    def dense_values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the numbers themselves: values × scales, in `dtype`; or values, as they are."""
        if self.scales is None:
            return self.values
        scales = self.scales.repeat_interleave(self.group)[: len(self.values)]
        return (self.values.float() * scales).to(dtype)

    def to_torch(self) -> Tensor:
        """Return torch's sparse CSR tensor [rows, columns]."""
        rows = len(self.starts) - 1
        width = 1
        for size in self.shape[1:]:
            width *= size
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.starts, self.columns.long(), self.dense_values(), (rows, width), check_invariants=True
            )
