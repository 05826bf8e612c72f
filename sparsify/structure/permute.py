"""In which order columns stand best for N:M: the search by Pool & Yu, "Channel Permutations for N:M Sparsity" (2021).

Columns of a matrix are looked at as rows: [columns, rows], magnitudes. Groups are m neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify.structure.swaps import Descent

MOST_COLUMNS = 2048
"""How many columns are compared with each other at once; of wider matrices a part is drawn in every round."""

ESCAPES = 50
"""How many times a matrix is shaken, once no swap of two columns helps any more."""

NARROW = 256
"""The most columns of a matrix that is shaken: with 1,536, fifty shakes took as long as the rest and gained 0.008 %."""


@dataclass(frozen=True)
class Found:
    """An order of columns: column `order[i]` comes to place i."""

    order: Tensor
    """int64, [columns], on the CPU."""

    in_time: bool
    """Whether the search ended by itself: then it gives the same order everywhere."""


def kept(columns: Tensor, n: int, m: int) -> float:
    """Return how much of the magnitudes [columns, rows] a mask keeps that has the top n of every m neighbours."""
    groups = columns.double().view(len(columns) // m, m, columns.shape[1])
    return float(groups.topk(n, dim=1).values.sum())


def search(
    columns: Tensor,
    n: int,
    m: int,
    *,
    seed: int = 0,
    deadline: float = float("inf"),
    escapes: int = ESCAPES,
    now: Callable[[], float] = time.monotonic,
) -> Found:
    """Return an order of columns in which N:M keeps more of their magnitudes, [columns, rows], and never less.

    Swaps that gain most are made until none gains; then some columns are shaken, and what is worse afterwards is taken
    back. It ends after so many `escapes`, or at the `deadline` (by `now`, in seconds).
    """
    count = len(columns)
    made = torch.Generator().manual_seed(seed)
    order = torch.arange(count)
    width = min(MOST_COLUMNS // m * m, count)
    in_time = True
    rounds = 1 if width == count else math.ceil(2 * count / width) ** 2  # so that most pairs have met
    for _ in range(rounds):
        if now() >= deadline:
            in_time = False
            break
        places = _drawn(count, width, m, made)
        part = Descent(columns[order[places].to(columns.device)], n, m)
        in_time = part.run(deadline, now) and in_time
        if count <= NARROW:
            in_time = part.escape(escapes, made, deadline, now) and in_time
        order[places] = order[places][part.order]
    if kept(columns[order.to(columns.device)], n, m) <= kept(columns, n, m):
        order = torch.arange(count)
    return Found(order, in_time)


def _drawn(count: int, width: int, m: int, made: torch.Generator) -> Tensor:
    """Return the places of some whole groups, int64 [width], in order."""
    if width == count:
        return torch.arange(count)
    groups = torch.randperm(count // m, generator=made)[: width // m].sort().values
    return (groups[:, None] * m + torch.arange(m)).flatten()
