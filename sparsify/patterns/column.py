"""Columns: an input feature is used or ignored as a whole."""

from typing import Literal

from sparsify.patterns.base import Grouped


class Column(Grouped):
    """One group an input feature."""

    type: Literal["column"] = "column"

    def tile(self, rows: int, columns: int) -> tuple[int, int]:
        return (rows, 1)
