"""The family of patterns: groups of weights of one matrix, rows = output features, columns = input features."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsify.spec import Family

Reduction = Literal["mean", "sum", "max", "l2"]


class Pattern(Family):
    """Partitions a matrix [R, C] into a grid of groups [R / rows, C / columns] that share their fate."""

    family: ClassVar[str] = "pattern"

    def tile(self) -> tuple[int, int]:
        """Return (rows, columns) of one group."""
        return (1, 1)

    def size(self) -> int:
        """Return the number of weights in a group."""
        rows, columns = self.tile()
        return rows * columns

    def most(self) -> float:
        """Return the highest sparsity that the pattern allows."""
        return 1.0

    def problem(self, rows: int, columns: int) -> str | None:
        """Return why a matrix of this shape cannot carry the pattern, or None."""
        return None

    def reduce(self, scores: Tensor) -> Tensor:
        """Return the scores of the groups [R / rows, C / columns] from those of the weights [R, C]."""
        return scores

    def period(self) -> int:
        """Return how many consecutive inputs `guard` must see together."""
        return 1

    def guard(self, scores: Tensor) -> Tensor:
        """Return the scores with +inf for what takes no part in the competition and is never pruned."""
        return scores

    def expand(self, mask: Tensor) -> Tensor:
        """Return the mask of the weights [R, C] from that of the groups; inverse of `reduce`."""
        rows, columns = self.tile()
        if rows == columns == 1:
            return mask
        return mask.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def reduce_tiles(scores: Tensor, rows: int, columns: int, how: Reduction) -> Tensor:
    """Reduce [R, C] to [R / rows, C / columns] by mean, sum, max or l2 norm, in at least float32."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    height, width = scores.shape
    tiles = scores.reshape(height // rows, rows, width // columns, columns)
    if how == "max":
        return tiles.amax(dim=(1, 3)).to(wide)
    if how == "l2":
        return tiles.to(wide).square().sum(dim=(1, 3)).sqrt()
    total = tiles.sum(dim=3, dtype=wide).sum(dim=1)
    return total / (rows * columns) if how == "mean" else total
