"""Masks of plain tensors: modules around them, and a competition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.criteria import Criterion
from sparsify.layers import Weight
from sparsify.masking import Competition
from sparsify.patterns import Pattern
from sparsify.scopes import Scope


def weight_of(name: str, tensor: Tensor) -> Weight:
    """Return a weight that holds `tensor`, without a copy: 2-D as a linear layer, more as a convolution."""
    kinds = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    module = kinds[tensor.dim()](*[1] * min(tensor.dim(), 3), bias=False)  # type: ignore[operator]
    module.weight = nn.Parameter(tensor, requires_grad=False)
    return Weight(name, module, "weight", "linear" if tensor.dim() == 2 else "conv")


def compete(
    tensors: Mapping[str, Tensor],
    sparsity: float,
    criterion: Any = "magnitude",
    pattern: Any = "unstructured",
    scope: Any = "tensor",
) -> dict[str, Tensor]:
    """Return the masks of tensors."""
    axes = Criterion.parse(criterion), Pattern.parse(pattern), Scope.parse(scope)
    bundles, misfits = axes[1].bundles([weight_of(*item) for item in tensors.items()], None)
    assert not misfits
    return Competition.of(bundles, *axes).masks(lambda arena: sparsity)


def whole(*shape: int) -> Tensor:
    """Return small whole numbers: sums are exact, and ties are many."""
    return torch.randint(-9, 9, shape).double()


TENSORS = {
    "linear": lambda: {"a": whole(16, 32), "b": whole(32, 16)},
    "conv1d": lambda: {"a": whole(8, 6, 3), "b": whole(6, 4, 1)},
    "conv2d": lambda: {"a": whole(8, 4, 3, 3), "b": whole(4, 8, 1, 2)},
    "conv3d": lambda: {"a": whole(4, 2, 2, 2, 2)},
}
"""Two tensors of a kind."""
