"""Contenders made of bundles: what selection reads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.masking import pieces
from sparsify.masking.groups import Ranking
from sparsify.masking.scorer import Scorer, check_scores
from sparsify.masking.selection import Contender
from sparsify.patterns import Pattern
from sparsify.patterns.bundle import Bundle


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
    scorer = Scorer(bundle.parts[0].weight, criterion, learned)
    count, period = scorer.cube.numel(), pattern.period()
    unit = max(scorer.width if criterion.whole_rows else period, 1)  # what must be read together

    def read(start: int, stop: int, step: int) -> Tensor:
        stride, columns = step, 1
        if criterion.whole_rows and step > 1:
            stride, columns = max(step // pieces.SAMPLED_COLUMNS, 1), pieces.SAMPLED_COLUMNS
        first, last = start // unit * unit, min(-(-stop // unit) * unit, count)

        def part(flat: Tensor) -> Tensor:
            """Return every `stride`-th unit."""
            return (flat if unit == 1 else flat.view(-1, unit))[::stride]

        piece = part(scorer.piece(first, last))
        scores = scorer.score(piece, first, stride)
        if period > 1 or gone is not None:
            check_scores(scorer.name, scores)
        if gone is not None:
            scores = scores.masked_fill(part(gone[first:last]).view(scores.shape), -torch.inf)
        if period > 1:
            scores = pattern.guard(_own(scores, piece).view(-1, period))
        if step > 1:
            return scores.reshape(-1)[::columns]
        return scores.reshape(-1)[start - first : stop - first]

    return Contender(scorer.name, count, 1, scorer.dtype, scorer.cube.device, read, period > 1 or gone is not None)


def _own(scores: Tensor, piece: Tensor) -> Tensor:
    """Return contiguous scores that may be written to."""
    shared = scores.untyped_storage().data_ptr() == piece.untyped_storage().data_ptr()
    return scores.clone(memory_format=torch.contiguous_format) if shared else scores.contiguous()


def rows_of(contender: Contender, width: int) -> Iterator[Tensor]:
    """Yield the scores of a tensor, a few whole rows [n, width] at a time."""
    step = max(contender.chunk // max(width, 1), 1) * max(width, 1)
    for start in range(0, contender.count, step):
        scores = contender.read(start, min(start + step, contender.count), 1).view(-1, width)
        if not contender.protected:
            check_scores(contender.name, scores)
        yield scores
