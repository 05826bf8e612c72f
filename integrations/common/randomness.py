"""The random numbers that dropout draws from, in every process, for trainers that do not save them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def random_states() -> list[dict[str, Tensor]]:
    """Return the state of each process, in their order; all of them must call it."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def restore(states: Any) -> None:
    """Go on from the state of this process; not where there are more or fewer processes than there were."""
    distributed = dist.is_available() and dist.is_initialized()
    number, count = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    if not isinstance(states, list) or len(states) != count:
        return
    torch.set_rng_state(states[number]["cpu"])
    if torch.cuda.is_available() and "cuda" in states[number]:
        torch.cuda.set_rng_state(states[number]["cuda"])
