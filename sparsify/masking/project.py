"""Writing masks into tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify.bits import bits

PIECE = 1 << 20
"""How much of a mask is widened to integers at a time."""


@torch.no_grad()
def project_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Set `tensor` (floating, any strides) to +0.0, in place, wherever `mask` (bool, True = keep) is False.

    The bits are multiplied, not the numbers: what is masked becomes +0.0 even where it was negative, NaN or
    infinite, and it is twice as fast as `masked_fill_` on a CPU, piece by piece as the mask is widened to
    integers on the way.
    """
    whole = bits(tensor)
    if whole.device.type != "cpu" or not (whole.is_contiguous() and mask.is_contiguous()):
        whole.mul_(mask)
        return tensor
    for part, keep in zip(torch.split(whole.view(-1), PIECE), torch.split(mask.view(-1), PIECE), strict=True):
        part.mul_(keep)
    return tensor


@torch.no_grad()
def count_zeros(tensor: Tensor) -> int:
    """Return how many elements are zero, of either sign."""
    return tensor.numel() - int(torch.count_nonzero(tensor))
