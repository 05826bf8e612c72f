"""Blocks: true r × c tiles of the weight matrix."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sparsify.layers import Weight
from sparsify.patterns.base import Grouped
from sparsify.patterns.bundle import Tile
from sparsify.spec import integral

Side = Annotated[int, Field(ge=1, le=65536), integral]


class Block(Grouped):
    """Tiles of `shape` [output rows, input columns]; in convolutions, at each tap of the kernel.

    Source: Lagunas et al., "Block Pruning For Faster Transformers" (2021), §3.
    """

    type: Literal["block"] = "block"
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"shape": [4, 1]},
        {"shape": [8, 8], "reduce": "l2"},
        {"shape": [5, 3], "ragged": "pad"},
    )

    shape: Annotated[tuple[Side, Side], Field(strict=False)]
    """[rows, columns]: rows are output features, columns input features."""

    ragged: Literal["error", "pad"] = "error"
    """What happens where the shape does not divide a matrix: an error, or smaller blocks at the edges."""

    def label(self) -> str:
        height, width = self.shape
        return super().label().replace("block", f"block {height}×{width}")

    def tile(self, weight: Weight) -> Tile:
        return (self.shape[0], 1, self.shape[1])

    def problem(self, weight: Weight) -> str | None:
        height, width = self.shape
        size = weight.geometry
        own = size.rows // size.groups
        if size.groups > 1 and own % height:
            return f"blocks of {height} rows would join groups of the convolution, which have {own} rows each"
        if self.ragged == "pad" or (size.rows % height == 0 and size.columns % width == 0):
            return None
        sides = f"{size.rows} rows × {size.columns} columns"
        return f"blocks of {height}×{width} do not divide {sides} (`ragged: pad` would let the edges be smaller)"
