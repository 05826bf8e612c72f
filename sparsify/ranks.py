"""What several processes agree on. With one process, or without torch.distributed, nothing happens."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def mean_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its mean over all processes, in place; return it."""
    if (processes := count()) > 1:
        dist.all_reduce(tensor)
        tensor.div_(processes)
    return tensor
