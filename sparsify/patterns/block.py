"""Blocks: true r × c tiles of the weight matrix."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from sparsify.patterns.base import Pattern, Reduction, reduce_tiles
from sparsify.spec import integral

Side = Annotated[int, Field(ge=1, le=65536), integral]


class Block(Pattern):
    """Tiles of `shape` [output rows, input columns]; both must divide the matrix.

    Source: Lagunas et al., "Block Pruning For Faster Transformers" (2021), §3.
    """

    type: Literal["block"] = "block"
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"shape": [4, 1]},
        {"shape": [1, 4]},
        {"shape": [8, 8], "reduce": "l2"},
    )

    shape: Annotated[tuple[Side, Side], Field(strict=False)]
    """[rows, columns]: rows are output features, columns input features."""

    reduce_by: Reduction = Field(default="mean", alias="reduce")
    """How the scores of a tile's weights become the tile's score."""

    def label(self) -> str:
        height, width = self.shape
        return f"block {height}×{width}" + ("" if self.reduce_by == "mean" else f" by {self.reduce_by}")

    def tile(self) -> tuple[int, int]:
        return self.shape

    def problem(self, rows: int, columns: int) -> str | None:
        height, width = self.shape
        if rows % height == 0 and columns % width == 0:
            return None
        return f"blocks of {height}×{width} do not divide {rows} rows × {columns} columns"

    def reduce(self, scores: Tensor) -> Tensor:
        return reduce_tiles(scores, *self.shape, self.reduce_by)
