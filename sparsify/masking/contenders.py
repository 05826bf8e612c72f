"""Contenders made of bundles: what selection reads."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.criteria.base import Place
from sparsify.masking.groups import Ranking
from sparsify.masking.selection import Contender, check_scores
from sparsify.patterns import Pattern
from sparsify.patterns.bundle import Bundle

SAMPLED_COLUMNS = 8
"""Where only whole rows can be scored, a sample takes more rows, and one of so many weights in them."""


def of_groups(ranking: Ranking) -> Contender:
    """Return a contender of a bundle's groups."""
    bundle = ranking.bundle
    return Contender.of(bundle.name, ranking.scores, bundle.size, sizes=bundle.sizes, protected=ranking.protected)


def of_weights(
    bundle: Bundle,
    criterion: Criterion,
    pattern: Pattern,
    learned: Tensor | None = None,
    gone: Tensor | None = None,
) -> Contender:
    """Return a reader of the scores of single weights that holds no copy of the tensor.

    The criterion scores the weights, or what is `learned` in their place (a tensor of their shape). Weights that are
    `gone` (bool, 1-D, in the order of the cube) have the score −inf, unless the pattern guards them: in a group that
    has lost more than the pattern takes, the surplus does not count.
    """
    weight = bundle.parts[0].weight
    cube = weight.cube(weight.tensor if learned is None else learned)
    width = math.prod(cube.shape[1:])
    period = pattern.period()
    unit = max(width if criterion.whole_rows else period, 1)  # what must be read together

    def read(start: int, stop: int, step: int) -> Tensor:
        stride, columns = step, 1
        if criterion.whole_rows and step > 1:
            stride, columns = max(step // SAMPLED_COLUMNS, 1), SAMPLED_COLUMNS
        first, last = start // unit, -(-stop // unit)
        piece = _flat(cube, first * unit, min(last * unit, cube.numel()))
        piece = (piece if unit == 1 else piece.view(-1, unit))[::stride]
        scores = criterion.score(piece, Place(weight.name, first * unit, stride))
        if period > 1 or gone is not None:
            check_scores(weight.name, scores)
        if gone is not None:
            out = gone[first * unit : min(last * unit, gone.numel())]
            out = (out if unit == 1 else out.view(-1, unit))[::stride]
            scores = scores.masked_fill(out.view(scores.shape), -torch.inf)
        if period > 1:
            if scores.data_ptr() == piece.data_ptr():
                scores = scores.clone()
            scores = pattern.guard(scores.reshape(-1, period))
        if step > 1:
            return scores.reshape(-1)[::columns]
        return scores.reshape(-1)[start - first * unit : stop - first * unit]

    empty = cube.new_empty((0, width) if criterion.whole_rows else 0)
    dtype = criterion.score(empty, Place(weight.name, 0)).dtype
    return Contender(weight.name, cube.numel(), 1, dtype, cube.device, read, period > 1 or gone is not None)


def _flat(cube: Tensor, start: int, stop: int) -> Tensor:
    """Return elements start … < stop of a cube in its order, copying only their rows where it must."""
    if cube.is_contiguous():
        return cube.view(-1)[start:stop]
    width = math.prod(cube.shape[1:])
    first = start // width
    rows = cube[first : -(-stop // width)].reshape(-1)
    return rows[start - first * width : stop - first * width]


def held(inner: Contender, first: Tensor, last: Tensor) -> Contender:
    """Return a contender whose groups go first where `first` is False, and never where `last` is True."""

    def read(start: int, stop: int, step: int) -> Tensor:
        if step > 1:
            return inner.read(start, stop, step)
        scores = inner.read(start, stop, 1)
        check_scores(inner.name, scores, inner.protected)
        gone = scores == -torch.inf
        held = scores.masked_fill(last[start:stop], torch.inf).masked_fill_(~first[start:stop], -torch.inf)
        return held.masked_fill_(gone, -torch.inf)

    return Contender(inner.name, inner.count, inner.size, inner.dtype, inner.device, read, True, inner.sizes)


def rows_of(contender: Contender, width: int) -> Iterator[Tensor]:
    """Yield the scores of a tensor, a few whole rows [n, width] at a time."""
    step = max(contender.chunk // max(width, 1), 1) * max(width, 1)
    for start in range(0, contender.count, step):
        scores = contender.read(start, min(start + step, contender.count), 1).view(-1, width)
        if not contender.protected:
            check_scores(contender.name, scores)
        yield scores
