"""A weight put into the kernels' form, and back: the layer, its names and the keys of a state stay."""

from __future__ import annotations

import weakref

from torch import Tensor, nn

from sparsify.applied import at_work
from sparsify.errors import KernelError
from sparsify.layers import unwrap
from sparsify.semi.kernels import Kernels

_CONVERTED: weakref.WeakKeyDictionary[nn.Module, tuple[Kernels, bool]] = weakref.WeakKeyDictionary()
"""By layer: the kernels whose form its weight has, and whether the weight had a gradient."""


def convert(module: nn.Linear, compressed: Tensor, kernels: Kernels) -> None:
    """Put a compressed weight in the place of a layer's own; it has no gradient."""
    _CONVERTED[module] = (kernels, module.weight.requires_grad)
    module._parameters["weight"] = nn.Parameter(compressed, requires_grad=False)


def to_dense(model: nn.Module) -> tuple[str, ...]:
    """Turn what `to_semi_structured` converted into ordinary weights again, and return the names of these layers.

    The values are what they were (a negative zero may be a positive one). Nothing happens where nothing was converted.
    Raises KernelError while a manager is at work.

    Examples:
        >>> import torch, sparsify
        >>> sparsify.to_dense(torch.nn.Sequential(torch.nn.Linear(64, 64)))  # nothing was converted
        ()
    """
    base = unwrap(model)
    if at_work(base):
        raise KernelError("a manager is still applied to the model: call finalize() first")
    return tuple(name for name, module in base.named_modules() if restore(module))


def restore(module: nn.Module) -> bool:
    """Give a layer its ordinary weight back; returns whether it had another."""
    if module not in _CONVERTED:
        return False
    kernels, trained = _CONVERTED.pop(module)
    weight = module._parameters.get("weight")
    if weight is None or not kernels.is_sparse(weight):  # somebody has put another one there since
        return False
    module._parameters["weight"] = nn.Parameter(kernels.dense(weight), trained)
    return True
