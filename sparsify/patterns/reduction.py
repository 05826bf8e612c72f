"""How the scores of a group's weights become the group's score.

In two steps, so that parts of a group may lie in different tensors or be read at different times: partial
results are combined, and finished at the end.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sparsify.patterns.bundle import Tile

Reduction = Literal["mean", "sum", "max", "l2"]


def partial(scores: Tensor, tile: Tile, how: Reduction) -> Tensor:
    """Reduce scores [R, T, C] to tiles [⌈R/r⌉, ⌈T/t⌉, ⌈C/c⌉], in at least float32."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    missing = [-size % side for size, side in zip(scores.shape, tile, strict=True)]
    if any(missing):
        rows, taps, columns = missing
        neutral = -math.inf if how == "max" else 0.0
        scores = torch.nn.functional.pad(scores, (0, columns, 0, taps, 0, rows), value=neutral)
    if how == "l2":
        scores = scores.to(wide).square()
    sides = [part for size, side in zip(scores.shape, tile, strict=True) for part in (size // side, side)]
    tiles = scores.reshape(sides)
    for axis in (5, 3, 1):
        if tiles.shape[axis] == 1:
            tiles = tiles.squeeze(axis)
        else:
            tiles = tiles.amax(axis) if how == "max" else tiles.sum(axis, dtype=wide)
    return tiles.to(wide)


def combine(one: Tensor, other: Tensor, how: Reduction) -> Tensor:
    """Return the partial result of two parts of the same groups."""
    return torch.maximum(one, other) if how == "max" else one + other


def finish(partial: Tensor, sizes: int | Tensor, how: Reduction) -> Tensor:
    """Return the scores of groups of `sizes` weights from their partial results."""
    if how == "l2":
        return partial.sqrt()
    return partial / sizes if how == "mean" else partial
