"""Heads and neurons: rows with their biases, and columns; which of them live."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsify.anatomy import Attention, FeedForward
from sparsify.layers import Weight
from sparsify.patterns.bundle import Part
from sparsify.patterns.spanning import across, along

Block = Attention | FeedForward
MaskOf = Callable[[Weight], Tensor]
"""Returns the mask (bool, True = keep) of a weight, in the shape of its region."""


def matrices(block: Block) -> list[Weight]:
    """Return the matrices of a block."""
    return [weight for _, weight in block.roles()]


def living(block: Block, mask: MaskOf) -> list[tuple[Part, Tensor]]:
    """Return every part of a block, biases too, with which of its units live (bool, 1-D).

    A head is dead where all its value rows or all its output columns are pruned, a neuron where its row of up (or
    gate) or its column of down is. A head whose query or key is empty attends evenly: it lives.
    """
    found = living_heads(block, mask) if isinstance(block, Attention) else living_neurons(block, mask)
    return [(part, kept) for weight, kept, columns in found for part in _parts(weight, kept.numel(), columns)]


def living_heads(block: Attention, mask: MaskOf) -> list[tuple[Weight, Tensor, bool]]:
    """Return (matrix, which of its heads live, whether they are its columns); see `living`."""
    outputs = not_empty(block.output, mask, block.heads, columns=True)
    values = not_empty(block.value, mask, block.groups)
    size = block.heads // max(block.groups, 1)
    queries = outputs & values.repeat_interleave(size)
    groups = queries.view(block.groups, size).any(1)
    lives = (groups,) if block.interleaved else (queries, groups, groups)
    rows = zip(block.projections, lives, strict=True)
    return [*((weight, kept, False) for weight, kept in rows), (block.output, queries, True)]


def living_neurons(block: FeedForward, mask: MaskOf) -> list[tuple[Weight, Tensor, bool]]:
    """Return (matrix, which of its neurons live, whether they are its columns); see `living`."""
    ups = [block.up] if block.gate is None else [block.up, block.gate]
    width = block.neurons
    kept = not_empty(block.down, mask, width, columns=True)
    for up in ups:
        kept = kept & not_empty(up, mask, width)
    return [*((up, kept, False) for up in ups), (block.down, kept, True)]


def kept_by_bias(block: FeedForward, mask: MaskOf) -> Tensor:
    """Return which neurons live though their row of up is empty: they hand on act(gate) × their bias; bool, 1-D."""
    silent = ~not_empty(block.down, mask, block.neurons, columns=True)
    bias = block.up.bias()
    if block.gate is None or bias is None:
        return silent & ~silent
    shifted = not_empty(bias, mask, block.neurons)
    empty = ~not_empty(block.up, mask, block.neurons)
    return empty & shifted & not_empty(block.gate, mask, block.neurons) & ~silent


def not_empty(weight: Weight, mask: MaskOf, units: int, *, columns: bool = False) -> Tensor:
    """Return which of the equal runs of rows (or columns) of a matrix have something left; bool, 1-D."""
    cube = weight.cube(mask(weight)).flatten(1)
    lines = cube.any(0) if columns else cube.any(1)
    return lines.view(units, len(lines) // max(units, 1)).any(1)


def _parts(weight: Weight, units: int, columns: bool) -> list[Part]:
    """Return a matrix cut into units, and its bias where it is cut along its rows."""
    if columns:
        return [across(weight, units)]
    bias = weight.bias()
    return [along(part, units) for part in ((weight,) if bias is None else (weight, bias))]
