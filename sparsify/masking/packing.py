"""Masks as files hold them: eight elements to a byte."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """Return a bool tensor as uint8, eight elements to a byte, the first in the lowest bit."""
    flat = mask.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8).to(torch.uint8)
    packed = torch.zeros(padded.shape[0], dtype=torch.uint8)
    for bit in range(8):
        packed |= padded[:, bit] << bit
    return packed


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the bool tensor of `shape` that `pack` packed."""
    bits = torch.stack([(packed >> bit) & 1 for bit in range(8)], dim=1).reshape(-1)
    return bits[: torch.Size(shape).numel()].to(torch.bool).view(shape)
