"""Rows: an output feature lives or dies as a whole."""

from typing import Literal

from sparsify.patterns.base import Grouped


class Row(Grouped):
    """One group an output feature. Its bias is left alone: a pruned feature is constant, not gone."""

    type: Literal["row"] = "row"

    def tile(self, rows: int, columns: int) -> tuple[int, int]:
        return (1, columns)
