"""A matrix seen from afar: how dense it is in each of at most 64 × 64 cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 64
"""Cells along a side."""


@dataclass(frozen=True)
class Cells:
    """Counts of what is not zero. A cell has `row_step` × `column_step` weights (× taps); the last ones may be smaller.

    Steps are powers of two, so that heads and blocks of usual sizes begin where a cell begins.
    """

    rows: int
    columns: int
    taps: int
    row_step: int
    column_step: int
    counts: Tensor
    """int64, [cells down, cells across]."""

    def elements(self) -> Tensor:
        """Return how many weights each cell has; int64, as `counts`."""
        down, across = _sizes(self.rows, self.row_step), _sizes(self.columns, self.column_step)
        return down[:, None] * across[None, :] * self.taps

    def density(self) -> Tensor:
        """Return the fraction of each cell that is not zero; float64, as `counts`."""
        return self.counts / self.elements().clamp(min=1)

    def span(self, down: int, across: int) -> tuple[int, int, int, int]:
        """Return first row, last row, first column, last column of a cell."""
        top, left = down * self.row_step, across * self.column_step
        return top, min(top + self.row_step, self.rows) - 1, left, min(left + self.column_step, self.columns) - 1

    def coarser(self, factor: int) -> Cells:
        """Return the matrix in cells that are `factor` times as wide and as high."""
        down, across = (-(-size // factor) for size in self.counts.shape)
        room = torch.zeros(down * factor, across * factor, dtype=torch.int64)
        room[: self.counts.shape[0], : self.counts.shape[1]] = self.counts
        counts = room.view(down, factor, across, factor).sum((1, 3))
        return Cells(self.rows, self.columns, self.taps, self.row_step * factor, self.column_step * factor, counts)


def cells_of(nonzero: Tensor) -> Cells:
    """Return the cells of a cube [rows, taps, columns] (bool, True = not zero)."""
    rows, taps, columns = nonzero.shape
    row_step, column_step = _step(rows), _step(columns)
    across = -(-columns // column_step)
    where = torch.arange(columns) // column_step
    counts = torch.zeros(-(-rows // row_step), across, dtype=torch.int64)
    for place in range(len(counts)):
        band = nonzero[place * row_step : (place + 1) * row_step]
        counts[place].index_add_(0, where, band.sum((0, 1)))
    return Cells(rows, columns, taps, row_step, column_step, counts)


def _step(size: int) -> int:
    """Return the smallest power of two that makes at most `MOST` cells of so many lines."""
    step = 1
    while -(-size // step) > MOST:
        step *= 2
    return step


def _sizes(size: int, step: int) -> Tensor:
    """Return how many lines each cell of a side has (int64)."""
    starts = torch.arange(0, size, step)
    return (size - starts).clamp(max=step)
