"""A small random twin: modules of the model's own classes, with random weights on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsify.errors import PlanError
from sparsify.layers.outline import bare, redrawn

BYTES = 1 << 30
"""The most that the parameters of a twin may take."""


def twin(model: nn.Module) -> nn.Module:
    """Return the twin, in evaluation mode and float32. The model is not written to. Raises PlanError if too large."""
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > BYTES:
        raise PlanError(
            f"a copy with random weights, on which channels are followed, would take {size / 1e9:.1f} GB; the most is "
            f"{BYTES / 1e9:.1f} GB"
        )
    generator = torch.Generator().manual_seed(0)

    def new(name: str, value: Tensor) -> Tensor:
        return _parameter(name, value, generator) if isinstance(value, nn.Parameter) else _buffer(name, value)

    made = redrawn(bare(model), new)
    for parameter in made.parameters():  # frozen ones too: the check asks how much each matters
        parameter.requires_grad_(parameter.is_floating_point())
    return made


def _parameter(name: str, value: Tensor, generator: torch.Generator) -> Tensor:
    if isinstance(value, nn.UninitializedParameter):
        raise PlanError(f"{name} is not initialised yet; run the model once before")
    shape = value.shape
    if len(shape) > 1:
        made = torch.randn(shape, generator=generator) * math.sqrt(2 / max(math.prod(shape[1:]), 1))
    elif name.endswith("bias"):
        made = torch.randn(shape, generator=generator) * 0.2
    else:
        made = torch.rand(shape, generator=generator) + 0.5
    return made.to(torch.float32) if value.is_floating_point() else made.to(value.dtype)


def _buffer(name: str, value: Tensor) -> Tensor:
    if value.is_meta:
        made = torch.zeros(value.shape, dtype=value.dtype)
        return made.fill_(1) if "var" in name else made
    made = value.detach().to("cpu", copy=True)
    return made.float() if made.is_floating_point() else made


def settle(model: nn.Module, forward: Callable[[], Any]) -> None:
    """Give batch norms the statistics of one forward, so that signals neither die nor explode on their way."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [module.momentum for module in found]
    for module in found:
        module.training, module.momentum = True, 1.0
    try:
        forward()
    except (ValueError, RuntimeError):  # a single value for each channel has no variance
        for module in found:
            module.reset_running_stats()
    finally:
        for module, momentum in zip(found, momenta, strict=True):
            module.training, module.momentum = False, momentum
