"""A short trial: dense against sparse, in turn, on the same input."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from sparsify.linears import Linear
from sparsify.semi.kernels import Kernels

WARM_UP = 3
ROUNDS = 15
TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.float32: 5e-3}
"""How far an output may be from the dense one, relative to the largest (float32 is multiplied as TF32)."""


@dataclass(frozen=True)
class Trial:
    """What was measured, in seconds a call, and what was wrong."""

    dense: float = 0.0
    sparse: float = 0.0
    wrong: str = ""
    """Why the kernels cannot be used at all: they fail, or compute something else."""


@torch.no_grad()
def tried(layer: Linear, compressed: Tensor, tokens: int, kernels: Kernels) -> Trial:
    """Return how long a layer takes with either weight on `tokens` rows of random input: medians, measured in turn."""
    weight, bias = layer.module.weight.detach(), layer.module.bias
    made = torch.Generator(weight.device).manual_seed(0)
    given = torch.randn(tokens, weight.shape[1], generator=made, device=weight.device, dtype=weight.dtype)

    def dense() -> Tensor:
        return functional.linear(given, weight, bias)

    def sparse() -> Tensor:
        return functional.linear(given, compressed, bias)

    if not torch.equal(kernels.dense(compressed), weight):
        return Trial(wrong="its compressed weight is another one when it is unpacked")
    expected, found = dense(), sparse()
    apart = float((expected.float() - found.float()).abs().max()) / max(float(expected.float().abs().max()), 1e-30)
    if not apart <= TOLERANCES.get(weight.dtype, 1e-2):
        return Trial(wrong=f"the kernels' output is off by {apart:.2g} of the largest")
    for _ in range(WARM_UP):
        kernels.seconds(dense)
        kernels.seconds(sparse)
    times = [(kernels.seconds(dense), kernels.seconds(sparse)) for _ in range(ROUNDS)]
    return Trial(median(one for one, _ in times), median(two for _, two in times))
