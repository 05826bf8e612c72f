"""Bundles: what a pattern makes of tensors. The groups of a bundle compete; each may span several tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsify.layers import Geometry, Weight

Tile = tuple[int, int, int]
"""Rows, taps and columns of a group in one tensor."""


@dataclass(frozen=True)
class Part:
    """A tensor, cut into equal tiles; tile i belongs to group i. Tiles at the edges may be cut off."""

    weight: Weight
    tile: Tile

    def __post_init__(self) -> None:
        rows, taps, columns = self.tile  # a tile that spans an empty dimension
        object.__setattr__(self, "tile", (max(rows, 1), max(taps, 1), max(columns, 1)))

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """The number of tiles along rows, taps and columns."""
        rows, taps, columns = _dimensions(self.weight.geometry)
        height, depth, width = self.tile
        return -(-rows // height), -(-taps // depth), -(-columns // width)

    @property
    def ragged(self) -> bool:
        """Whether some tiles are cut off."""
        dimensions = _dimensions(self.weight.geometry)
        return any(size % side for size, side in zip(dimensions, self.tile, strict=True))

    def sizes(self) -> Tensor:
        """Return the number of weights in every tile, int64, on the CPU."""
        sides = []
        for size, side, count in zip(_dimensions(self.weight.geometry), self.tile, self.grid, strict=True):
            lengths = torch.full((count,), side)
            if count:
                lengths[-1] = size - (count - 1) * side
            sides.append(lengths)
        rows, taps, columns = sides
        return (rows[:, None, None] * taps[None, :, None] * columns).flatten()

    def rows(self, first: int, stop: int) -> Tensor:
        """Return some rows of the tensor's cube as it is now."""
        return self.weight.cube(self.weight.tensor)[first:stop]

    def expand(self, groups: Tensor) -> Tensor:
        """Return the mask of the tensor's cube from that of the groups."""
        mask = groups.view(self.grid)
        for axis, side in reversed(list(enumerate(self.tile))):  # whole rows are copied last, which is fast
            if side > 1:
                mask = mask.repeat_interleave(side, axis)
        rows, taps, columns = _dimensions(self.weight.geometry)
        return mask[:rows, :taps, :columns] if self.ragged else mask


@dataclass(frozen=True)
class Bundle:
    """Tensors whose groups are pruned together: one tensor, or all those that heads or neurons span."""

    name: str
    parts: tuple[Part, ...]
    least: int = 0
    """How many of the highest groups are never pruned."""

    quota: int = 1
    """With more than 1: the tiles fall into so many equal runs, and a group takes one tile from each, its lowest
    first (an equal number of query heads from every group of a grouped-query attention)."""

    @property
    def tiles(self) -> int:
        """The number of tiles in each tensor."""
        return math.prod(self.parts[0].grid)

    @property
    def count(self) -> int:
        """The number of groups."""
        return self.tiles // self.quota

    @cached_property
    def elements(self) -> int:
        """The number of weights."""
        return sum(part.weight.geometry.elements for part in self.parts)

    @property
    def size(self) -> int:
        """The number of weights in a group; in the largest, where tiles are cut off."""
        return self.quota * sum(math.prod(part.tile) for part in self.parts)

    @cached_property
    def sizes(self) -> Tensor | None:
        """The number of weights in every group, where they differ."""
        return self.parts[0].sizes() if any(part.ragged for part in self.parts) else None

    @property
    def perimeter(self) -> int:
        """The sum of the dimensions of all its tensors."""
        return sum(part.weight.geometry.perimeter for part in self.parts)

    @property
    def single(self) -> bool:
        """Whether every weight is a group of its own."""
        return len(self.parts) == 1 and self.parts[0].tile == (1, 1, 1)


def _dimensions(geometry: Geometry) -> Tile:
    return geometry.rows, geometry.taps, geometry.columns
