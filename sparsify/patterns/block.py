"""Blocks: true r × c tiles of the weight matrix."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sparsify.patterns.base import Grouped
from sparsify.spec import integral

Side = Annotated[int, Field(ge=1, le=65536), integral]


class Block(Grouped):
    """Tiles of `shape` [output rows, input columns]; both must divide the matrix.

    Source: Lagunas et al., "Block Pruning For Faster Transformers" (2021), §3.
    """

    type: Literal["block"] = "block"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"shape": [4, 1]}, {"shape": [8, 8], "reduce": "l2"})

    shape: Annotated[tuple[Side, Side], Field(strict=False)]
    """[rows, columns]: rows are output features, columns input features."""

    def label(self) -> str:
        height, width = self.shape
        return super().label().replace("block", f"block {height}×{width}")

    def tile(self, rows: int, columns: int) -> tuple[int, int]:
        return self.shape

    def problem(self, rows: int, columns: int) -> str | None:
        height, width = self.shape
        if rows % height == 0 and columns % width == 0:
            return None
        return f"blocks of {height}×{width} do not divide {rows} rows × {columns} columns"
