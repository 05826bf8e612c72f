"""Sparse training the slow and obvious way: masks by hand around a plain loop, one weight at a time where it may be."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe
from tests.loop import loss_of

WORD = 0xFFFFFFFF
Masks = dict[str, Tensor]


def erk(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """Return the sparsity of every tensor as the authors' code solves for it: what would be too dense is dense."""
    dense: set[str] = set()
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    while True:
        rest = [name for name in shapes if name not in dense]
        zeros = sparsity * sum(math.prod(shape) for shape in shapes.values())
        kept = sum(math.prod(shapes[name]) for name in rest) - zeros
        scale = kept / sum(raw[name] * math.prod(shapes[name]) for name in rest)
        if all(scale * raw[name] <= 1 for name in rest):
            return {name: 0.0 if name in dense else 1 - scale * raw[name] for name in shapes}
        dense.add(max(rest, key=lambda name: raw[name]))


def mixed(number: int) -> int:
    """Mix 32 bits (lowbias32)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ (number >> shift)) * factor & WORD
    return number ^ (number >> 16)


def lot(seed: int, name: str, step: int, index: int) -> int:
    """Return the ticket of a weight: the highest grow."""
    return mixed(mixed(index) + crc32(f"{seed}/{name}@{step}".encode()) & WORD) >> 8


def lowest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Return which `count` of some weights have the lowest values; of equals the first."""
    order = sorted(
        among.flatten().nonzero().flatten().tolist(), key=lambda index: (float(values.flatten()[index]), index)
    )
    chosen = torch.zeros(values.numel(), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen.view(values.shape)


def highest(values: Tensor, among: Tensor, count: int) -> Tensor:
    """Return which `count` of some weights have the highest values; of equals the last."""
    return among & ~lowest(values, among, int(among.sum()) - count)


@dataclass
class ByHand:
    """A model that is trained under masks made by hand."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]
    masks: Masks = field(default_factory=dict)
    dropped: Masks = field(default_factory=dict)
    grown: Masks = field(default_factory=dict)

    def weight(self, name: str) -> Tensor:
        return self.model.get_parameter(name).detach()

    def train(self, step: int, parts: int = 1) -> Masks:
        """Make one step under the masks; return the dense gradients."""
        self.optimizer.zero_grad()
        for part in range(parts):
            (loss_of(self.model, step * parts + part) / parts).backward()
        gradients = {}
        for name in self.names:
            gradient = self.model.get_parameter(name).grad
            assert gradient is not None
            gradients[name] = gradient.clone()
            if name in self.masks:
                gradient[~self.masks[name]] = 0
        self.optimizer.step()
        self.show()
        return gradients

    def show(self) -> None:
        for name, mask in self.masks.items():
            self.weight(name)[~mask] = 0

    def forget(self, name: str, where: Tensor) -> None:
        """Clear the moments of some weights."""
        state = self.optimizer.state[self.model.get_parameter(name)]
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
            if state.get(key) is not None:
                state[key][where] = 0

    def first(self, zeros: dict[str, int]) -> None:
        """Prune the smallest."""
        for name, count in zeros.items():
            weight = self.weight(name)
            self.masks[name] = ~lowest(weight.abs(), torch.ones_like(weight, dtype=torch.bool), count)
        self.show()

    def exchange(self, zeros: dict[str, int], fraction: float, value: Callable[[str], Tensor]) -> None:
        """Prune to a number of zeros and a fraction of what is left beyond; let as many grow where `value` is highest."""
        for name, count in zeros.items():
            mask, weight = self.masks[name], self.weight(name)
            could = ~mask
            swapped = min(round(fraction * (mask.numel() - count)), int(could.sum()))
            drop = lowest(weight.abs(), mask, count + swapped - int(could.sum()))
            grow = highest(value(name), could, swapped)
            self.masks[name] = mask & ~drop | grow
            self.dropped[name], self.grown[name] = drop, grow
            self.forget(name, grow)
        self.show()


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=False),
}


def pair(
    mlp: nn.Module, optimizer: str, recipe: str, steps: int, **options: Any
) -> tuple[ByHand, nn.Module, Any, Manager]:
    """Return a model by hand, and the same one with its optimizer under a recipe; in float64."""
    one, other = copy.deepcopy(mlp).double(), copy.deepcopy(mlp).double()
    names = tuple(name for name, parameter in one.named_parameters() if parameter.dim() > 1)
    mine = OPTIMIZERS[optimizer](other)
    manager = Manager(Recipe.parse(recipe)).apply(other, mine, total_steps=steps, **options)
    return ByHand(one, OPTIMIZERS[optimizer](one), names), other, mine, manager


def regrow(fields: str) -> str:
    """Return a recipe of one `regrow`."""
    return f'version: 1\nmodifiers:\n  - {{type: regrow, targets: "*", {fields}}}\n'
