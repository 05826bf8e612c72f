"""What we ask of the user's optimizer: itself, under wrappers, and its gradients, clipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsify.errors import PlanError


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer under wrappers that keep it in `.optimizer`."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PlanError(f"expected a torch optimizer, got a {type(optimizer).__name__}")
    return optimizer


def minimising(optimizer: torch.optim.Optimizer, key: str) -> None:
    """Raise PlanError if the optimizer maximizes: what `key` makes of gradients would push the wrong way."""
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise PlanError(f"{key}: the optimizer maximizes; give it the negative loss to minimize")


def clip_(optimizer: torch.optim.Optimizer, max_norm: float, **options: Any) -> Tensor:
    """Clip the norm of the gradients of an optimizer's parameters, as torch does; return the norm before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if options or not hasattr(nn.utils, "get_total_norm") or any(g.device.type != "cpu" for g in gradients):
        return nn.utils.clip_grad_norm_(parameters, max_norm, **options)
    norm = nn.utils.get_total_norm(gradients)
    if norm > max_norm:  # torch would multiply by one otherwise; elsewhere asking would wait for the device
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
