"""The scores of a bundle's groups, and the masks of its tensors from the mask of its groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.masking import pieces
from sparsify.masking.scorer import Scorer, check_scores
from sparsify.patterns.bundle import Bundle, Part, Tile
from sparsify.patterns.reduction import Reduction, combine, finish, partial


def tile_scores(bundle: Bundle, criterion: Criterion, how: Reduction) -> Tensor:
    """Return the scores of all tiles of a bundle, reduced over its tensors, 1-D, in at least float32.

    A few rows are read at a time, so that no full copy of the scores exists.
    """
    total: Tensor | None = None
    for part in bundle.parts:
        mine = reduced(part, how, Scorer(part.weight, criterion).rows)
        total = mine if total is None else combine(total, mine.to(total.device), how)
    assert total is not None
    sizes = bundle.sizes
    return finish(total, bundle.size // bundle.quota if sizes is None else sizes.to(total.device), how)


def reduced(part: Part, how: Reduction, rows: Callable[[int, int], Tensor]) -> Tensor:
    """Return the partial results of one tensor's tiles, 1-D, in at least float32.

    `rows(first, stop)` returns what is reduced of these rows of the cube, [stop − first, taps, columns].
    """
    size = part.weight.geometry
    width = size.taps * size.columns
    if part.index is not None:
        return _scattered(part, part.index, how, rows)
    if part.lines is not None:
        return _gathered(part, part.lines, how, rows)
    bands = []
    for start, stop in _bands(size.rows, width, part.tile):
        band: Tensor | None = None
        step = max(pieces.PIECE // max(width, 1), 1) if stop - start == part.tile[0] else stop - start
        for first in range(start, stop, step):
            last = min(first + step, stop)
            mine = partial(rows(first, last), (min(part.tile[0], max(last - first, 1)), *part.tile[1:]), how)
            band = mine if band is None else combine(band, mine, how)
        assert band is not None
        bands.append(band)
    return torch.cat(bands).flatten() if bands else torch.empty(0)


def _scattered(part: Part, index: Tensor, how: Reduction, rows: Callable[[int, int], Tensor]) -> Tensor:
    """Return the partial results of tiles that a map names; sums are made in float64, and so hardly know an order."""
    count, size = math.prod(part.grid), part.weight.geometry
    step = max(pieces.PIECE // max(size.taps * size.columns, 1), 1)
    total: Tensor | None = None
    wide = torch.float32
    for first in range(0, size.rows, step):
        last = min(first + step, size.rows)
        scores = rows(first, last)
        wide = torch.promote_types(scores.dtype, torch.float32)
        scores = scores.to(torch.float64).flatten()
        if how == "l2":
            scores = scores.square()
        if total is None:
            total = scores.new_full((count,), -math.inf if how == "max" else 0.0)
        tiles = index[first:last].flatten().to(scores.device)
        total.scatter_reduce_(0, tiles, scores, "amax" if how == "max" else "sum")
    return torch.empty(0) if total is None else total.to(wide)


def _gathered(part: Part, lines: Tensor, how: Reduction, rows: Callable[[int, int], Tensor]) -> Tensor:
    """Return the partial results of tiles that are whole rows: row by row first, then over the rows of each tile."""
    each = reduced(Part(part.weight, (1, *part.tile[1:])), how, rows)
    total = each.new_full((part.among,), -math.inf if how == "max" else 0.0, dtype=torch.float64)
    total.scatter_reduce_(0, lines.to(each.device), each.double(), "amax" if how == "max" else "sum")
    return total.to(each.dtype)


def products(part: Part, one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Σ one ⊙ other over each tile of a tensor, 1-D, computed in `dtype`; both have the region's shape."""
    cubes = part.weight.cube(one), part.weight.cube(other)
    free = part.index is not None or part.lines is not None
    run = 1 if free else _run(part, *cubes, dtype)
    if run == 1:
        return reduced(part, "sum", lambda first, stop: cubes[0][first:stop].to(dtype) * cubes[1][first:stop].to(dtype))
    dots = torch.bmm(cubes[0].view(-1, 1, run), cubes[1].view(-1, run, 1))
    rows, taps, columns = part.tile
    return partial(dots.view(*cubes[0].shape[:2], -1), (rows, taps, columns // run), "sum").flatten()


def _run(part: Part, one: Tensor, other: Tensor, dtype: torch.dtype) -> int:
    """Return how many neighbours in a row make one dot product; 1 where products had better be made one by one.

    Short dot products read memory once, without a copy of the products; longer ones than 32 go to libraries that are
    slower at it.
    """
    plain = all(each.device.type == "cpu" and each.dtype == dtype and each.is_contiguous() for each in (one, other))
    run = math.gcd(part.tile[2], one.shape[2], 32) if plain and one.numel() else 1
    return run if run >= 8 else 1


def _bands(rows: int, width: int, tile: Tile) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of rows that hold whole tiles: several rows of tiles, or one that is large."""
    step = max(pieces.PIECE // max(tile[0] * width, 1), 1) * tile[0]
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


class Ranking:
    """A bundle's group scores, and the way back from a mask of groups to masks of tensors.

    With a quota the tiles of each run are ordered, and the n-th of all runs make a group. Tiles that are `gone` (bool,
    1-D) come first in their runs, and groups made of such tiles alone have the score −inf: they are pruned whatever
    else is. Raises ScoreError for scores that cannot be ranked where some are replaced.
    """

    def __init__(self, bundle: Bundle, scores: Tensor, how: Reduction, gone: Tensor | None = None) -> None:
        self.bundle = bundle
        self.order: Tensor | None = None
        if bundle.least or gone is not None:
            check_scores(bundle.name, scores)
        gone = None if gone is None else gone.to(scores.device)
        if bundle.quota > 1:
            runs = scores.view(bundle.quota, -1)
            first = runs if gone is None else runs.masked_fill(gone.view(runs.shape), -torch.inf)
            self.order = first.sort(dim=1, stable=True).indices
            scores = _across(runs.gather(1, self.order), how)
            gone = None if gone is None else gone.view(runs.shape).gather(1, self.order).all(0)
        if gone is not None:
            scores = scores.masked_fill(gone, -torch.inf)
        if bundle.least:
            best = scores.argsort(stable=True)[-bundle.least :]
            scores = scores.index_fill(0, best, torch.inf)
        self.scores = scores if gone is None else scores.masked_fill(gone, -torch.inf)
        self.protected = bundle.least > 0 or gone is not None
        """Whether some groups are pruned whatever else is (−inf), or never (+inf)."""

    def tiles(self, groups: Tensor) -> Tensor:
        """Return the mask of the tiles from that of the groups."""
        if self.order is None:
            return groups
        mask = torch.empty_like(self.order, dtype=torch.bool)
        return mask.scatter_(1, self.order, groups.expand(mask.shape).contiguous()).flatten()


def _across(runs: Tensor, how: Reduction) -> Tensor:
    """Return the scores of groups that take one tile from every run."""
    if how == "max":
        return runs.amax(0)
    return runs.square().sum(0).sqrt() if how == "l2" else runs.mean(0) if how == "mean" else runs.sum(0)


def expand(bundle: Bundle, tiles: Tensor) -> dict[str, Tensor]:
    """Return the masks of a bundle's tensors, in their own shapes, from the mask of its tiles."""
    return {part.weight.name: spread(part, tiles) for part in bundle.parts}


def spread(part: Part, tiles: Tensor) -> Tensor:
    """Return what every tile has (1-D, any dtype) as a tensor of the shape of the weight, on its device."""
    return part.weight.uncube(part.expand(tiles)).to(part.weight.parameter.device)
