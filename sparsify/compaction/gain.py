"""What compaction has gained; and what gains more where zeros lie singly."""

from __future__ import annotations

from sparsify.compaction.smaller import Compacted
from sparsify.masking import count_zeros

LITTLE = 0.01
"""The share of parameters below which nothing worth having has left."""

MANY = 0.05
"""The share of zeros from which a model is taken for a sparse one."""


def zeros_left(found: Compacted) -> float:
    """Return the share of the smaller model's parameters that are zero, from 0 to 1."""
    parameters = list(found.model.parameters())
    return sum(map(count_zeros, parameters)) / max(sum(each.numel() for each in parameters), 1)


def advice(found: Compacted) -> str:
    """Return the sentence for a sparse model that hardly becomes smaller; empty for others."""
    before, after = found.parameters
    left = zeros_left(found)
    if before - after > LITTLE * before or left < MANY:
        return ""
    return (
        f"{left:.1%} of the parameters are zeros that lie singly, from which compaction gains nothing: only heads, "
        "neurons, experts, channels and layers that are zero as a whole can leave. `sparsify pack` stores single zeros "
        "small, the sparse engine computes without them (benchmark --engine sparse), and recipes such as heads, "
        "neurons or channels-coupled prune what compaction takes out"
    )
