"""Writing masks into tensors."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def project_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Set `tensor` to +0.0, in place, wherever `mask` (bool, True = keep, same shape) is False.

    A masked NaN or infinity becomes zero too, which a product would keep.
    """
    return tensor.masked_fill_(mask.logical_not(), 0.0)


@torch.no_grad()
def count_zeros(tensor: Tensor) -> int:
    """Return how many elements are zero, of either sign."""
    return tensor.numel() - int(torch.count_nonzero(tensor))
