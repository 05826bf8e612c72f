"""From weights, a criterion, a pattern and a scope to masks: the product of the axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.errors import ScoreError
from sparsify.masking.selection import Contender, budget, select
from sparsify.patterns import Pattern
from sparsify.scopes import Scope


@torch.no_grad()
def mask_tensors(
    matrices: Mapping[str, Tensor],
    criterion: Criterion,
    pattern: Pattern,
    scope: Scope,
    sparsity: Callable[[Sequence[str]], float],
) -> dict[str, Tensor]:
    """Return a bool mask [R, C] (True = keep) for every matrix [R, C] at the sparsity wanted of its arena.

    `matrices` are views with rows = output features and columns = input features, in the order in which
    ties are settled; `sparsity` is asked with the names in each arena. Raises ScoreError for scores that
    cannot be ranked.
    """
    names = list(matrices)
    masks: dict[str, Tensor] = {}
    for arena in scope.arenas(len(names)):
        members = [names[index] for index in arena]
        contenders = [contender(name, matrices[name], criterion, pattern) for name in members]
        elements = budget(sparsity(members), sum(matrices[name].numel() for name in members))
        for name, flat in zip(members, select(contenders, elements), strict=True):
            masks[name] = pattern.expand(flat, *matrices[name].shape)
    return {name: masks[name] for name in names}


def contender(name: str, matrix: Tensor, criterion: Criterion, pattern: Pattern) -> Contender:
    """Return a reader of the matrix's group scores that holds no copy of the matrix.

    Groups of several weights are reduced once and kept; single weights are scored whenever they are read.
    """
    size = pattern.size(*matrix.shape)
    if size > 1:
        return Contender.of(name, _reduce(matrix, criterion, pattern), size)
    period = pattern.period()

    def read(start: int, stop: int, step: int) -> Tensor:
        if period == 1:
            return criterion.score(_flat(matrix, start, stop, step))
        first, last = start // period, -(-stop // period)
        part = _flat(matrix, first * period, last * period, 1).view(-1, period)[::step]
        scores = criterion.score(part)
        if scores.numel() and not all(math.isfinite(end) for end in torch.aminmax(scores)):
            raise ScoreError(f"{name}: the scores hold NaN or infinite values, so they cannot be ranked")
        scores = pattern.guard(scores).reshape(-1)
        return scores[start - first * period : stop - first * period] if step == 1 else scores

    return Contender(name, matrix.numel(), 1, matrix.dtype, matrix.device, read, protected=period > 1)


def _flat(matrix: Tensor, start: int, stop: int, step: int) -> Tensor:
    """Return elements start, start + step, … < stop of the row-major matrix, copying only those rows."""
    if matrix.is_contiguous():
        return matrix.view(-1)[start:stop:step]
    width = matrix.shape[1]
    first = start // width
    rows = matrix[first : -(-stop // width)].reshape(-1)
    return rows[start - first * width : stop - first * width : step]


def _reduce(matrix: Tensor, criterion: Criterion, pattern: Pattern) -> Tensor:
    """Reduce a few rows of groups at a time, so that no full copy of scores exists."""
    rows = pattern.tile(*matrix.shape)[0]
    step = max((1 << 20) // (rows * matrix.shape[1]), 1) * rows
    parts = [pattern.reduce(criterion.score(matrix[start : start + step])) for start in range(0, matrix.shape[0], step)]
    return torch.cat(parts) if parts else matrix.new_empty((0, 0))
