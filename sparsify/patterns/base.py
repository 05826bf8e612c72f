"""The family of patterns: groups of weights of one matrix, rows = output features, columns = input features."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsify.spec import Family

Reduction = Literal["mean", "sum", "max", "l2"]


class Pattern(Family):
    """Partitions a matrix [R, C] into a grid of equal tiles, groups that share their fate.

    As it stands, every weight is a group of its own; `Grouped` is the base of patterns with larger tiles.
    """

    family: ClassVar[str] = "pattern"

    def tile(self, rows: int, columns: int) -> tuple[int, int]:
        """Return (rows, columns) of one group in a matrix of `rows` × `columns`."""
        return (1, 1)

    def size(self, rows: int, columns: int) -> int:
        """Return the number of weights in a group of a matrix of `rows` × `columns`."""
        height, width = self.tile(rows, columns)
        return height * width

    def most(self) -> float:
        """Return the highest sparsity that the pattern allows."""
        return 1.0

    def problem(self, rows: int, columns: int) -> str | None:
        """Return why a matrix of this shape cannot carry the pattern, or None."""
        return None

    def reduce(self, scores: Tensor) -> Tensor:
        """Return the scores of the groups from those of the weights [R, C] (whole rows of tiles)."""
        return scores

    def period(self) -> int:
        """Return how many consecutive inputs `guard` must see together."""
        return 1

    def guard(self, scores: Tensor) -> Tensor:
        """Return the scores with +inf for what takes no part in the competition and is never pruned."""
        return scores

    def expand(self, mask: Tensor, rows: int, columns: int) -> Tensor:
        """Return the mask of the weights [R, C] from that of the groups, in row-major order."""
        height, width = self.tile(rows, columns)
        grid = mask.view(rows // height, columns // width)
        if height == width == 1:
            return grid
        return grid.repeat_interleave(height, 0).repeat_interleave(width, 1)


class Grouped(Pattern):
    """The base of patterns whose groups hold several weights: their scores are reduced to one."""

    reduce_by: Reduction = Field(default="mean", alias="reduce")
    """How the scores of a group's weights become the group's score."""

    def label(self) -> str:
        return self.type if self.reduce_by == "mean" else f"{self.type} by {self.reduce_by}"

    def reduce(self, scores: Tensor) -> Tensor:
        return reduce_tiles(scores, *self.tile(*scores.shape), self.reduce_by)


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
