"""Columns: an input feature is used or ignored as a whole."""

from typing import ClassVar, Literal

from sparsify.layers import Weight
from sparsify.patterns.base import Grouped
from sparsify.patterns.bundle import Tile


class Column(Grouped):
    """One group an input feature: in convolutions, all taps of an input channel.

    In a grouped convolution a channel is seen by the rows of its own group only.
    """

    type: Literal["column"] = "column"
    by_row: ClassVar[bool] = False

    def tile(self, weight: Weight) -> Tile:
        return (weight.geometry.rows // weight.geometry.groups, weight.geometry.taps, 1)
