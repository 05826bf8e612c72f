"""The demo's training loop: the same for the dense and for the sparse model, but for the hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sparsify.demo.task import Digits, accuracy
from sparsify.errors import SparsifyError
from sparsify.manager import Manager

LEARNING_RATE = 2e-3
WARM_UP = 0.1


@dataclass
class History:
    """What happened, for the picture: one entry a step, and one an evaluation."""

    loss: list[float] = field(default_factory=list)
    sparsity: list[float] = field(default_factory=list)
    target: list[float | None] = field(default_factory=list)
    accuracy: list[tuple[int, float]] = field(default_factory=list)


def optimizer_for(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW, warmed up and then decayed linearly to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)

    def factor(step: int) -> float:
        return min((step + 1) / (WARM_UP * steps), (steps - step) / ((1 - WARM_UP) * steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(
    model: nn.Module,
    data: tuple[Digits, Digits],
    epochs: int,
    seed: int,
    manager: Manager | None = None,
    on_step: Callable[[float, float], None] = lambda loss, sparsity: None,
    **bindings: Any,
) -> History:
    """Train for `epochs`, under `manager` if there is one (not yet applied, given `bindings`); return the history."""
    training, test = data
    steps = epochs * training.steps
    optimizer, schedule = optimizer_for(model, steps)
    if manager is not None:
        manager.apply(model, optimizer, steps_per_epoch=training.steps, epochs=epochs, **bindings)
    generator = torch.Generator().manual_seed(seed)
    history = History()
    model.train()
    for epoch in range(epochs):
        for images, labels in training.batches(generator):
            if manager is not None:
                manager.on_step_begin()
            outputs = model(pixel_values=images, labels=labels)
            loss = manager.on_loss(outputs.loss, outputs) if manager is not None else outputs.loss
            optimizer.zero_grad()
            loss.backward()
            if manager is not None:
                manager.on_before_optimizer_step()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if manager is not None:
                manager.on_step_end()
            _record(history, loss.item(), manager)
            on_step(history.loss[-1], history.sparsity[-1])
        if epoch % max(epochs // 12, 1) == 0 or epoch == epochs - 1:
            history.accuracy.append((len(history.loss), accuracy(model, test)))
    return history


def _record(history: History, loss: float, manager: Manager | None) -> None:
    if not loss == loss:
        raise SparsifyError(f"the loss is NaN at step {len(history.loss) + 1}; try a lower learning rate")
    history.loss.append(loss)
    history.sparsity.append(manager.sparsity if manager is not None else 0.0)
    history.target.append(manager.target if manager is not None else None)
