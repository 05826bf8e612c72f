"""Which parameters can be pruned, and how each is seen: rows (outputs) × taps × columns (inputs).

The one place that knows layer types. A mask has the shape of its weight's region; patterns see the cube.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

Layout = Literal["linear", "transposed", "conv", "embedding", "bias"]


@dataclass(frozen=True)
class Geometry:
    """The size of a cube. A linear layer has one tap; a grouped convolution's row sees `columns` inputs."""

    rows: int
    """Output features."""

    taps: int
    """Places of the kernel; 1 but for convolutions."""

    columns: int
    """Input features of a row."""

    groups: int = 1
    """Groups of a convolution."""

    perimeter: int = 0
    """The sum of the parameter's dimensions, for scopes that look at shapes."""

    @property
    def elements(self) -> int:
        """The number of weights."""
        return self.rows * self.taps * self.columns


@dataclass(frozen=True)
class Weight:
    """A prunable parameter of a module, or some of its rows; found anew by name each time it is used."""

    name: str
    module: nn.Module
    attribute: str
    layout: Layout
    span: tuple[int, int] | None = None
    """First and last + 1 of the rows that are meant, where several matrices share a parameter."""

    @property
    def parameter(self) -> nn.Parameter:
        """The whole parameter as it is now."""
        parameter: nn.Parameter = getattr(self.module, self.attribute)
        return parameter

    @property
    def parameter_name(self) -> str:
        """The parameter's name in the model."""
        return self.name.partition("[")[0]

    @property
    def tensor(self) -> Tensor:
        """The weight as it is now, detached: a view of the parameter."""
        return self.region(self.parameter.detach())

    @property
    def sparse_gradients(self) -> bool:
        """Whether a gradient has rows only for the tokens that occurred (`nn.Embedding(sparse=True)`)."""
        return self.layout == "embedding" and bool(self.module.sparse)

    @cached_property
    def geometry(self) -> Geometry:
        """How large the cube is."""
        shape = self.shape
        groups = self.module.groups if isinstance(self.module, _CONVOLUTIONS) else 1
        if self.layout == "bias":
            return Geometry(shape[0], 1, 1, perimeter=0)
        rows, columns = shape[:2] if self.layout != "transposed" else shape[::-1]
        return Geometry(rows, math.prod(shape[2:]), columns, groups, perimeter=sum(shape))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the region."""
        return tuple(self.region(self.parameter.detach()).shape)

    def region(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor of the parameter's shape that is this weight; a view."""
        if self.span is None:
            return tensor
        start, stop = self.span
        return tensor[:, start:stop] if self.layout == "transposed" else tensor[start:stop]

    def rows(self, start: int, stop: int) -> Weight:
        """Return the weight made of some of this one's rows."""
        if (start, stop) == (0, self.geometry.rows):
            return self
        return replace(self, name=f"{self.parameter_name}[{start}:{stop}]", span=(start, stop))

    def cube(self, region: Tensor) -> Tensor:
        """Return a tensor of the region's shape as [rows, taps, columns]; a view."""
        if self.layout == "transposed":
            return region.t().unsqueeze(1)
        if self.layout == "bias":
            return region.view(-1, 1, 1)
        return region.flatten(2).transpose(1, 2) if self.layout == "conv" else region.unsqueeze(1)

    def uncube(self, cube: Tensor) -> Tensor:
        """Return a cube [rows, taps, columns] in the region's shape: the inverse of `cube`."""
        if self.layout == "transposed":
            return cube.squeeze(1).t().contiguous()
        return cube.transpose(1, 2).reshape(self.shape)

    def bias(self) -> Weight | None:
        """Return the bias of these rows, or None."""
        attribute = "in_proj_bias" if self.attribute == "in_proj_weight" else "bias"
        if getattr(self.module, attribute, None) is None:
            return None
        owner = self.parameter_name.rpartition(".")[0]
        name = f"{owner}.{attribute}" if owner else attribute
        whole = Weight(name, self.module, attribute, "bias")
        return whole.rows(*self.span) if self.span else whole


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WRAPPERS = ("DistributedDataParallel", "DataParallel", "AveragedModel")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's model from under torch.compile, DDP, an averaged model or similar wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in _WRAPPERS:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def weights(name: str, module: nn.Module) -> Iterator[Weight]:
    """Yield the prunable parameters that `module` itself holds (not those of its children)."""
    layouts: dict[str, Layout] = {}
    if isinstance(module, nn.MultiheadAttention):
        layouts = dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), "linear")
    elif isinstance(module, nn.Linear):
        layouts = {"weight": "linear"}
    elif isinstance(module, _CONVOLUTIONS):
        layouts = {"weight": "conv"}
    elif isinstance(module, nn.Embedding):
        layouts = {"weight": "embedding"}
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' GPT-2 layer
        layouts = {"weight": "transposed"}
    for attribute, layout in layouts.items():
        parameter = module._parameters.get(attribute)
        if isinstance(parameter, nn.Parameter) and parameter.is_floating_point():
            yield Weight(f"{name}.{attribute}" if name else attribute, module, attribute, layout)


def all_weights(model: nn.Module, *, embeddings: bool = False) -> list[Weight]:
    """Return every prunable parameter of a model, in the model's order; a tied one once.

    With `embeddings`, their tables too; one tied to an output layer is that layer's.
    """
    every = [weight for name, module in model.named_modules() for weight in weights(name, module)]
    first: dict[int, Weight] = {}
    for weight in sorted(every, key=lambda weight: weight.layout == "embedding"):
        first.setdefault(id(weight.parameter), weight)
    return [w for w in every if first[id(w.parameter)] is w and (embeddings or w.layout != "embedding")]


def aliases(model: nn.Module) -> dict[int, list[str]]:
    """Return id of a parameter → all its names, for parameters that have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: value for key, value in names.items() if len(value) > 1}


def shared_rows(weight: Weight, others: Iterable[Weight]) -> int:
    """Return how many rows of `weight` are rows of `others` too (which do not overlap each other)."""
    start, stop = weight.span or (0, weight.geometry.rows)
    count = 0
    for other in others:
        if other.parameter is weight.parameter:
            first, last = other.span or (0, other.geometry.rows)
            count += max(min(stop, last) - max(start, first), 0)
    return count


def unsuitable(parameter: Tensor) -> str | None:
    """Return why a parameter cannot be masked as it is, or None."""
    if isinstance(parameter, nn.UninitializedParameter):
        return "is not initialised yet; run the model once before"
    if hasattr(parameter, "device_mesh") or hasattr(parameter, "placements"):
        return "is sharded (DTensor), which is not supported yet"
    if parameter.layout != torch.strided:
        return f"has the layout {parameter.layout}"
    return None
