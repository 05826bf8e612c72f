"""Exact selection within every row at once: the same rule as `selection`, for many small arenas.

A row that was pruned before has a crowd of zeros, and a new mask takes a few weights more: the lowest scores are then
found one after the other, which reads memory a few times; else each row is searched for its threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify.bits import count_rows

FEW = 4
"""So many scores above a row's lowest are taken one after the other."""


def select_in_rows(scores: Tensor, groups: int) -> Tensor:
    """Return a bool mask (True = keep) of scores [rows, n] in which `groups` are pruned in every row.

    The lowest go, the first of equal scores before the later ones. +inf is never pruned while others are left.
    """
    if groups <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if groups >= scores.shape[1]:
        return torch.zeros_like(scores, dtype=torch.bool)
    lowest = scores.amin(1, keepdim=True)
    mask = scores > lowest
    pruned = scores.shape[1] - count_rows(mask)
    if bool((pruned < groups - FEW).any()):
        threshold = scores.kthvalue(groups, dim=1, keepdim=True).values
        torch.gt(scores, threshold, out=mask)
    else:
        threshold = _raised(scores, groups, lowest, mask, pruned)
    crowded = (scores.shape[1] - count_rows(mask) > groups).squeeze(1).nonzero().squeeze(1)
    if crowded.numel():
        mask[crowded] |= _late_ties(scores[crowded], threshold[crowded], groups)
    return mask


def _raised(scores: Tensor, groups: int, threshold: Tensor, mask: Tensor, pruned: Tensor) -> Tensor:
    """Return the thresholds [rows, 1], from those at which `pruned` are pruned to the next scores; updates `mask`."""
    short = pruned < groups
    while bool(short.any()):
        following = torch.where(mask, scores, torch.inf).amin(1, keepdim=True)
        threshold = torch.where(short, following, threshold)
        torch.gt(scores, threshold, out=mask)
        short = scores.shape[1] - count_rows(mask) < groups
    return threshold


def _late_ties(scores: Tensor, threshold: Tensor, groups: int) -> Tensor:
    """Return where scores equal their row's threshold, but for the first that reach `groups`."""
    ties = scores == threshold
    left = groups - (scores < threshold).sum(1, keepdim=True)
    return ties & (ties.cumsum(1) > left)
