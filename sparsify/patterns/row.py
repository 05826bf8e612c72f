"""Rows: an output feature lives or dies as a whole."""

from typing import ClassVar, Literal

from sparsify.layers import Weight
from sparsify.patterns.base import Equal
from sparsify.patterns.bundle import Tile


class Row(Equal):
    """One group an output feature. Its bias is not pruned: a pruned feature is constant, but still there."""

    type: Literal["row"] = "row"
    by_row: ClassVar[bool] = False

    def tile(self, weight: Weight) -> Tile:
        return (1, weight.geometry.taps, weight.geometry.columns)
