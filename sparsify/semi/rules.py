"""Which linear layers the kernels can take, by what torch itself asks of a weight, and why others cannot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsify.linears import Linear, not_its_own
from sparsify.semi.kernels import Kernels, short

N, M = 2, 4


def unfit(layer: Linear, ties: dict[int, list[str]], kernels: Kernels) -> str:
    """Return why the kernels cannot take a layer; empty where they can. What is cheap to see comes first."""
    module = layer.module
    weight = module._parameters.get("weight")
    if weight is not None and kernels.is_sparse(weight):
        return "it is converted already"
    reason = not_its_own(layer.name, module, nn.Linear.forward, ties)
    if reason or weight is None:
        return reason
    if reason := kernels.unfit(weight):
        return reason
    return _shape(weight, kernels) or _bias(module, weight) or _zeros(weight)


def _shape(weight: Tensor, kernels: Kernels) -> str:
    sizes = kernels.sizes(weight.dtype)
    if sizes is None:
        return f"dtype {short(weight.dtype)}: there are kernels for {', '.join(kernels.dtypes())}"
    for what, size, unit in (("outputs", weight.shape[0], sizes.rows), ("inputs", weight.shape[1], sizes.columns)):
        if size < unit or size % unit:
            return f"{size} {what}: no multiple of {unit}"
    return ""


def _bias(module: nn.Linear, weight: Tensor) -> str:
    bias = module.bias
    if isinstance(bias, Tensor) and bias.dtype != weight.dtype:
        return f"its bias is {short(bias.dtype)}, its weight {short(weight.dtype)}"
    return ""


@torch.no_grad()
def _zeros(weight: Tensor) -> str:
    """Return how many groups of four inputs have more than two that are not zero."""
    counts = (weight.detach().reshape(-1, M) != 0).sum(1)
    wrong = int((counts > N).sum())
    if not wrong:
        return ""
    share = f"{wrong / len(counts):.1%}" if wrong / len(counts) >= 0.001 else f"{wrong:,} of {len(counts):,}"
    return f"no 2:4 zeros: {share} of its groups have more than two"
