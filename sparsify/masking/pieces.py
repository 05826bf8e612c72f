"""How much is read at a time: one place, so that tests can cut tensors into pieces of a few weights."""

from __future__ import annotations

import torch

CHUNK = {"cpu": 1 << 19}
"""Scores held at a time; small enough to stay in a CPU's cache, larger on other devices."""
OTHER_CHUNK = 1 << 24
PIECE = 1 << 20
"""Scores held at a time while those of groups are reduced."""
SMALL = 1 << 16
"""Up to this many groups are collected without a bracket."""
SAMPLE = 1 << 12
"""At least this many scores are sampled; more, by the power 2/3, for larger arenas."""
SAMPLED_COLUMNS = 8
"""Where only whole rows can be scored, a sample takes more rows, and one of so many weights in them."""
PROBE = 1 << 12
"""About so many weights are asked about to see whether a criterion keeps to its contract."""


def chunk(device: torch.device) -> int:
    """Return how many scores are held at a time on a device."""
    return CHUNK.get(device.type, OTHER_CHUNK)
