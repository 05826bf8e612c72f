"""Which layers the engine can multiply for, why others not, and which kernels are worth a trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify.engine import convolutional
from sparsify.engine.chosen import KERNELS
from sparsify.engine.layer import Sparse, SparseLinear
from sparsify.linears import not_its_own

FEWEST_ZEROS = 0.3
"""Below this no kernel has ever been faster than a dense product: not worth the time of a trial."""

MOST_FILL = 1.4
"""Numbers that a block kernel stores ÷ those that are not zero; beyond it its zeros cost what it gains."""


@dataclass(frozen=True)
class Layer:
    """A linear layer by its name: `nn.Linear`, or transformers' Conv1D, which stores its weight transposed."""

    name: str
    module: nn.Module
    transposed: bool = False

    @property
    def weight(self) -> Tensor:
        """The weight as [outputs, inputs], a view."""
        weight: Any = self.module.weight
        found: Tensor = weight.detach()
        return found.t() if self.transposed else found

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        weight: Any = self.module.weight
        one, two = weight.shape
        return (two, one) if self.transposed else (one, two)

    @property
    def sparse_class(self) -> type[Sparse]:
        """The class of the layer when it is sparse."""
        if not self.transposed:
            return SparseLinear
        from sparsify.engine.conv1d import SparseConv1D

        return SparseConv1D

    @property
    def forward(self) -> Any:
        """What layers of its kind do."""
        kind: Any = _conv1d(self.module) if self.transposed else nn.Linear
        return kind.forward


@dataclass(frozen=True)
class Convolution(Layer):
    """An `nn.Conv1d` or `nn.Conv2d` by its name; its inputs are channels × places of the kernel."""

    @property
    def weight(self) -> Tensor:
        """The weight as [outputs, inputs], a view where its memory allows."""
        weight: Any = self.module.weight
        found: Tensor = weight.detach().flatten(1)
        return found

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        weight: Any = self.module.weight
        return weight.shape[0], math.prod(weight.shape[1:])

    @property
    def sparse_class(self) -> type[Sparse]:
        """The class of the layer when it is sparse."""
        return convolutional.SparseConv2d if isinstance(self.module, nn.Conv2d) else convolutional.SparseConv1d

    @property
    def forward(self) -> Any:
        """What layers of its kind do."""
        return nn.Conv2d.forward if isinstance(self.module, nn.Conv2d) else nn.Conv1d.forward


def layers_of(model: nn.Module) -> Iterator[Layer]:
    """Yield the linear layers and convolutions of a model, each once, in order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield Layer(name, module)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            yield Convolution(name, module)
        elif _conv1d(module) is not None:
            yield Layer(name, module, transposed=True)


def _conv1d(module: nn.Module) -> type | None:
    """Return transformers' Conv1D where a module is one."""
    places = (kind for kind in type(module).__mro__ if kind.__module__ == "transformers.pytorch_utils")
    return next((kind for kind in places if kind.__name__ == "Conv1D"), None)


def unfit(layer: Layer, ties: dict[int, list[str]]) -> str:
    """Return why the engine cannot take a layer; empty where it can. What is cheap to see comes first."""
    module: Any = layer.module
    if isinstance(module, Sparse):
        return "it is sparse already"
    if reason := not_its_own(layer.name, module, layer.forward, ties):
        return reason
    if isinstance(layer, Convolution) and (reason := convolutional.unfit(module)):
        return reason
    weight, bias = module.weight, module.bias
    if weight.device.type != "cpu":
        return f"on the {weight.device.type.upper()}: the engine is for the CPU"
    for what, tensor in (("weight", weight), ("bias", bias)):
        if isinstance(tensor, Tensor) and tensor.dtype != torch.float32:
            return f"its {what} is {str(tensor.dtype).removeprefix('torch.')}: the engine takes float32"
    if not weight.numel():
        return "it has no weights"
    zeros = zeros_of(weight)
    if zeros < FEWEST_ZEROS:
        return f"{zeros:.1%} of its weights are zero: below {FEWEST_ZEROS:.0%} nothing is gained"
    return ""


@torch.no_grad()
def zeros_of(weight: Tensor) -> float:
    """Return the fraction of a weight that is zero."""
    return 1 - float(torch.count_nonzero(weight)) / weight.numel()


@torch.no_grad()
def worth_a_trial(weight: Tensor) -> list[str]:
    """Return the kernels that may be the fastest for a weight [outputs, inputs]."""
    kept = weight != 0
    count = max(int(kept.sum()), 1)
    return [name for name, height in KERNELS.items() if height == 1 or _stored(kept, height) <= MOST_FILL * count]


def _stored(kept: Tensor, height: int) -> int:
    """Return how many numbers are stored where `height` rows share their columns."""
    rows, columns = kept.shape
    whole = functional.pad(kept, (0, 0, 0, -rows % height))
    return int(whole.view(-1, height, columns).any(1).sum()) * height
