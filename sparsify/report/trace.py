"""What is left of a matrix, without the matrix: which rows and columns are not empty, and how dense it is where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsify.layers import Weight
from sparsify.report.cells import Cells, cells_of
from sparsify.structure.units import MaskOf


@dataclass(frozen=True)
class Trace:
    """A matrix that was read and let go."""

    rows: Tensor
    """Which rows have something that is not zero; bool, [rows]."""

    columns: Tensor
    """Likewise, [columns]."""

    cells: Cells | None = None
    """Where it is drawn."""


def trace(cube: Tensor, *, drawn: bool = False) -> Trace:
    """Return the trace of a cube [rows, taps, columns] of numbers; with its cells if it is to be drawn."""
    nonzero = cube != 0
    return Trace(nonzero.flatten(1).any(1), nonzero.flatten(0, 1).any(0), cells_of(nonzero) if drawn else None)


def mask_of(traces: Mapping[str, Trace]) -> MaskOf:
    """Return masks with the same empty rows and columns as the matrices had, which is all that heads and neurons ask.

    The mask of a weight that has no trace is a KeyError.
    """

    def mask(weight: Weight) -> Tensor:
        found = traces[weight.name]
        both = found.rows[:, None, None] & found.columns[None, None, :]
        return weight.uncube(both.expand(-1, weight.geometry.taps, -1))

    return mask
