"""Which trainings have a loss that distillation can be added to: that of the model's outputs."""

from __future__ import annotations

from typing import Any

from sparsify import PlanError


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
