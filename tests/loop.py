"""The training loop of the tests: a recipe in a line, and steps with the three hooks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sparsify import Manager, Recipe
from sparsify.masking import budget
from sparsify.masking.latent import Latent

STEPS = 14
WEIGHTS = ("0.weight", "2.weight", "4.weight")
"""The weights of the `mlp` fixture."""

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


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


def masks_of(manager: Manager) -> dict[str, torch.Tensor]:
    """Return the masks in force by parameter."""
    return {masked.weight.parameter_name: masked.mask for masked in manager._masks}


def latent_of(manager: Manager, name: str) -> Latent:
    """Return the latent weight of a name."""
    return manager._masks._latents[name]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of most tests."""
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def wanted_zeros(model: nn.Module, step: int, sparsity: float = 0.75, begin: int = 2, end: int = 10) -> dict[str, int]:
    """Compute the cubic schedule by hand, with updates every two steps."""
    if step < begin:
        return dict.fromkeys(WEIGHTS, 0)
    last = min(step - (step - begin) % 2, end)
    now = sparsity - sparsity * (1 - (last - begin) / (end - begin)) ** 3
    return {name: budget(now, model.get_parameter(name).numel()) for name in WEIGHTS}
