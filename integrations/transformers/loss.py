"""The loss of a Trainer, which has no event for it: `outputs.loss` of the model is given to the manager first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import Manager, PlanError


def refuse(args: Any, trainer: Any | None, key: str) -> None:
    """Raise PlanError for a training whose loss does not come from the model's outputs."""
    if getattr(args, "label_smoothing_factor", 0):
        raise PlanError(
            f"{key}: with label_smoothing_factor the Trainer makes its loss itself, where distillation cannot be "
            "added: leave it at 0 (a teacher's soft labels do what smoothing does)"
        )
    if getattr(trainer, "compute_loss_func", None) is not None:
        raise PlanError(
            f"{key}: with compute_loss_func the loss does not come from the model's outputs, where distillation is "
            "added: let the model compute it (labels in the batch, outputs.loss)"
        )
    if getattr(args, "n_gpu", 1) > 1:
        raise PlanError(f"{key}: DataParallel copies the model for each device: start one process a device (torchrun)")


class LossHook:
    """A forward hook on the model itself, so that DDP and torch.compile, which wrap it, run it.

    In training mode the loss that the model returns becomes what `manager.on_loss` makes of it. Copies of the model,
    and pickles, have a hook that does nothing.
    """

    def __init__(self, manager: Manager | None = None) -> None:
        self.manager = manager

    @torch.compiler.disable
    def __call__(self, model: nn.Module, arguments: Any, named: Any, outputs: Any) -> Any:
        if self.manager is None or not model.training or not torch.is_grad_enabled():
            return None
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            outputs["loss"] = self.manager.on_loss(outputs["loss"], outputs)  # type: ignore[index]
        elif isinstance(outputs, tuple) and outputs and isinstance(outputs[0], Tensor) and outputs[0].dim() == 0:
            return (self.manager.on_loss(outputs[0], outputs), *outputs[1:])
        return None

    def __deepcopy__(self, memo: Any) -> LossHook:
        return LossHook()

    def __reduce__(self) -> tuple[type[LossHook], tuple[()]]:
        return LossHook, ()


def attach(model: nn.Module, manager: Manager) -> Any:
    """Have the losses of a model's forwards given to `manager`; return the handle that ends it."""
    return model.register_forward_hook(LossHook(manager), with_kwargs=True)
