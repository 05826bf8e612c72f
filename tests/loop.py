"""The training loop of the tests: a recipe in a line, and steps with the three hooks."""

from __future__ import annotations

import torch
from torch import nn

from sparsify import Manager, Recipe


def recipe(*, stages: str | None = None, **fields: str) -> Recipe:
    """Return a recipe of one `prune`; fields are YAML text."""
    fields = {"targets": '"*"', "sparsity": "0.75", "window": "{begin: 2, end: 10, every: 2}"} | fields
    body = ", ".join(f"{key}: {value}" for key, value in fields.items() if value)
    return Recipe.parse(f"version: 1\nmodifiers:\n  - {{type: prune, {body}}}\n")


def batch(step: int, features: int = 16, outputs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs and wanted outputs of a step; the same for the same step."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(8, features, generator=generator)
    return inputs, torch.randn(8, outputs, generator=generator)


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    """Return the squared error on the batch of `step`."""
    first = next(p for p in model.parameters())
    inputs, wanted = (part.to(first.dtype) for part in batch(step))
    return (model(inputs) - wanted).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, manager: Manager | None, steps: range) -> None:
    """Train with the three hooks, or densely without a manager."""
    for step in steps:
        if manager:
            manager.on_step_begin()
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if manager:
            manager.on_before_optimizer_step()
        optimizer.step()
        if manager:
            manager.on_step_end()


def zeros(model: nn.Module, name: str) -> int:
    """Count the zeros of a parameter."""
    return int((model.get_parameter(name) == 0).sum())
