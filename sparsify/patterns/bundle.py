"""Bundles: what a pattern makes of tensors. The groups of a bundle compete; each may span several tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sparsify.errors import PlanError
from sparsify.layers import Geometry, Weight

Tile = tuple[int, int, int]
"""Rows, taps and columns of a group in one tensor."""


@dataclass(frozen=True)
class Part:
    """A tensor, cut into equal tiles; tile i belongs to group i. Tiles at the edges may be cut off.

    With an `index` the tiles have any form: it names the tile of every weight (see `mapped`).
    """

    weight: Weight
    tile: Tile
    index: Tensor | None = field(default=None, compare=False, repr=False)
    """int64, in the shape of the cube."""

    lines: Tensor | None = field(default=None, compare=False, repr=False)
    """int64, 1-D: the tile of every row, where tiles are rows that need not be neighbours."""

    among: int = 0
    """The number of tiles, with `lines`: a part may have rows in a few of them only."""

    @classmethod
    def lined(cls, weight: Weight, lines: Tensor, among: int) -> Part:
        """Return a tensor whose row i belongs, whole, to the tile lines[i] (int64) of `among`."""
        size = weight.geometry
        most = int(lines.bincount().max()) if lines.numel() else 1
        return cls(weight, (most, size.taps, size.columns), lines=lines, among=among)

    @classmethod
    def mapped(cls, weight: Weight, index: Tensor) -> Part:
        """Return a tensor whose weights belong to the tiles that `index` [rows, taps, columns], int64, names.

        Tiles are numbered from 0 and each has a weight. Raises PlanError, naming the tensor, for other maps.
        """
        right = _dimensions(weight.geometry)
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or tuple(index.shape) != right:
            found = f"{index.dtype} {list(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise PlanError(f"{weight.name}: the map of groups must be int64 {list(right)}, and is {found}")
        if index.numel() and int(index.min()) < 0:
            raise PlanError(f"{weight.name}: groups are numbered from 0, and the map has {int(index.min())}")
        if index.numel() and int(index.max()) >= index.numel():
            raise PlanError(f"{weight.name}: the map has group {int(index.max())}, and only {index.numel()} weights")
        counts = index.flatten().bincount()
        if empty := (counts == 0).nonzero().flatten().tolist():
            raise PlanError(f"{weight.name}: every group must have a weight, and group {empty[0]} has none")
        return cls(weight, (int(counts.max()) if counts.numel() else 1, 1, 1), index)

    def __post_init__(self) -> None:
        rows, taps, columns = self.tile  # a tile that spans an empty dimension
        object.__setattr__(self, "tile", (max(rows, 1), max(taps, 1), max(columns, 1)))

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """The number of tiles along rows, taps and columns; of a map, all in one column."""
        if self.index is not None:
            return int(self.index.max()) + 1 if self.index.numel() else 0, 1, 1
        if self.lines is not None:
            return self.among, 1, 1
        rows, taps, columns = _dimensions(self.weight.geometry)
        height, depth, width = self.tile
        return -(-rows // height), -(-taps // depth), -(-columns // width)

    @property
    def ragged(self) -> bool:
        """Whether some tiles are cut off, or smaller than others."""
        if self.index is not None:
            return math.prod(self.grid) * self.tile[0] != self.index.numel()
        if self.lines is not None:
            return self.among * self.tile[0] != self.lines.numel()
        dimensions = _dimensions(self.weight.geometry)
        return any(size % side for size, side in zip(dimensions, self.tile, strict=True))

    def sizes(self) -> Tensor:
        """Return the number of weights in every tile, int64, on the CPU."""
        if self.index is not None:
            return self.index.flatten().bincount().cpu()
        if self.lines is not None:
            return self.lines.bincount(minlength=self.among).cpu() * (self.tile[1] * self.tile[2])
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
        if self.index is not None:
            return groups[self.index.to(groups.device)]
        if self.lines is not None:
            return groups[self.lines.to(groups.device)].view(-1, 1, 1).expand(_dimensions(self.weight.geometry))
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

    doubt: str = ""
    """Why its groups cannot be pruned as wholes; empty where they can."""

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
        sizes = None if all(part.lines is None for part in self.parts) else self.sizes
        if sizes is not None:
            return int(sizes.max())
        return self.quota * sum(math.prod(part.tile) for part in self.parts)

    @cached_property
    def sizes(self) -> Tensor | None:
        """The number of weights in every group, where they differ."""
        if not any(part.ragged for part in self.parts):
            return None
        return torch.stack([part.sizes() for part in self.parts]).sum(0)

    @property
    def perimeter(self) -> int:
        """The sum of the dimensions of all its tensors."""
        return sum(part.weight.geometry.perimeter for part in self.parts)

    @property
    def single(self) -> bool:
        """Whether every weight is a group of its own."""
        (part, *others) = self.parts
        return not others and part.tile == (1, 1, 1) and part.index is None and part.lines is None


def _dimensions(geometry: Geometry) -> Tile:
    return geometry.rows, geometry.taps, geometry.columns
