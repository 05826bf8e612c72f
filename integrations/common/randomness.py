"""The random numbers that dropout draws from, in every process, for trainers that do not save them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify import ranks


def random_states() -> list[dict[str, Tensor]]:
    """Return the state of each process, in their order; all of them must call it."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return ranks.of_all(own)


def restore(states: Any) -> None:
    """Go on from the state of this process; not where there are more or fewer processes than there were."""
    if not isinstance(states, list) or len(states) != ranks.count():
        return
    own = states[ranks.number()]
    torch.set_rng_state(own["cpu"])
    if torch.cuda.is_available() and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"])
