"""Selection in which no contender is less sparse than a floor, nor sparser than a ceiling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsify.masking.scorer import check_scores
from sparsify.masking.selection import Contender, select


def select_bounded(contenders: list[Contender], elements: int, floor: float, ceiling: float) -> list[Tensor]:
    """Select with every contender's sparsity between `floor` and `ceiling`.

    What reaches the floor goes first and what lies above the ceiling never: one selection, which equals fixing the
    contenders that would leave the bounds and solving for the rest, and nests like any other.
    """
    if floor <= 0 and ceiling >= 1:
        return select(contenders, elements)
    firsts = [select([contender], at_least(floor, contender.elements))[0] for contender in contenders]
    forced = sum(c.elements - c.weigh(first, 0) for c, first in zip(contenders, firsts, strict=True))
    if forced >= elements:
        return firsts
    bounded = []
    for contender, first in zip(contenders, firsts, strict=True):
        last = _above(contender, ceiling)
        bounded.append(_held(contender, first, last))
    return select(bounded, elements)


def at_least(floor: float, elements: int) -> int:
    """Return how many elements reach the floor; rounded up, so that all at the floor reach the whole's budget."""
    return math.ceil(floor * elements - 1e-9)


def _above(contender: Contender, ceiling: float) -> Tensor:
    """Return the groups (True) that cannot be pruned without exceeding the ceiling."""
    elements = math.floor(ceiling * contender.elements + 1e-9) - contender.size + 1
    return select([contender], elements)[0]


def _held(inner: Contender, first: Tensor, last: Tensor) -> Contender:
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
