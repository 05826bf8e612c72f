"""A matrix's cells as a PNG of one pixel each: one colour, the more opaque the denser, so that any ground shows."""

from __future__ import annotations

import struct
import zlib

import torch
from torch import Tensor

LEVELS = 32
"""Shades. The first is for cells of zeros alone: anything that is not empty is darker than they are."""

FAINTEST = 0.15
"""How opaque the first shade of a cell that is not empty is."""


def opacity(density: Tensor) -> Tensor:
    """Return how opaque cells of a density are, 0…1: 0 for empty ones; a root, so that low ones are told apart."""
    shown = FAINTEST + (1 - FAINTEST) * density.clamp(0, 1).sqrt()
    return torch.where(density > 0, shown, torch.zeros_like(shown))


def png(density: Tensor, colour: str) -> bytes:
    """Return a picture of densities [down, across] in a colour (`#2a6fbb`)."""
    levels = (opacity(density) * (LEVELS - 1)).ceil().to(torch.uint8)
    height, width = levels.shape
    rows = b"".join(b"\0" + bytes(row) for row in levels.tolist())
    red, green, blue = bytes.fromhex(colour[1:])
    alphas = bytes(round(255 * level / (LEVELS - 1)) for level in range(LEVELS))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes((red, green, blue)) * LEVELS),
            _chunk(b"tRNS", alphas),
            _chunk(b"IDAT", zlib.compress(rows, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
