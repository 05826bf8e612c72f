"""Exact selection within every row at once: the same rule as `selection`, for many small arenas."""

from __future__ import annotations

import torch
from torch import Tensor


def select_in_rows(scores: Tensor, groups: int) -> Tensor:
    """Return a bool mask (True = keep) of scores [rows, n] in which `groups` are pruned in every row.

    The lowest go, the first of equal scores before the later ones. +inf is never pruned while others are left.
    """
    if groups <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if groups >= scores.shape[1]:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(groups, dim=1, keepdim=True).values
    mask = scores > threshold
    ties = scores == threshold
    left = groups - (scores < threshold).sum(1, keepdim=True)
    crowded = (ties.sum(1, keepdim=True) > left).squeeze(1).nonzero().squeeze(1)
    if crowded.numel():
        some = ties[crowded]
        mask[crowded] |= some & (some.cumsum(1) > left[crowded])
    return mask
