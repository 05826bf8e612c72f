"""Losses and gradients of distillation as they are written by hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T²·KL, the mean over rows, as torch writes it."""
    log_s, log_t = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mean() * temperature**2


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def the_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def reference(student: nn.Module, loss_of: Any) -> dict[str, Tensor]:
    """Return the gradients of a loss that is written by hand."""
    other = copy.deepcopy(student)
    loss_of(other).backward()
    return gradients(other)
