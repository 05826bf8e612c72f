"""One prunable parameter, or some of its rows, seen as rows (outputs) × taps × columns (inputs).

A mask has the shape of its weight's region; patterns see the cube.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

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

    parameter_name: str
    """The parameter's name in the model when it was planned."""

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
    def name(self) -> str:
        """The parameter's name; with its rows in brackets where only some are meant."""
        return self.parameter_name if self.span is None else f"{self.parameter_name}[{self.span[0]}:{self.span[1]}]"

    @property
    def whole(self) -> Weight:
        """The weight of all rows."""
        return self if self.span is None else replace(self, span=None)

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
        groups = self.module.groups if isinstance(self.module, CONVOLUTIONS) else 1
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
        return replace(self, span=(start, stop))

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


def row_span(weight: Weight) -> tuple[int, int]:
    """Return the first and last + 1 of the rows of the parameter that a weight has."""
    return weight.span or (0, weight.geometry.rows)


def shared_rows(weight: Weight, others: Iterable[Weight]) -> int:
    """Return how many rows of `weight` are rows of `others` too (which do not overlap each other)."""
    start, stop = weight.span or (0, weight.geometry.rows)
    count = 0
    for other in others:
        if other.parameter is weight.parameter:
            first, last = other.span or (0, other.geometry.rows)
            count += max(min(stop, last) - max(start, first), 0)
    return count


def merged(weights: Iterable[Weight]) -> list[Weight]:
    """Return weights that have the same rows together, each row once, in the order of their parameters."""
    spans: dict[int, list[tuple[int, int]]] = {}
    wholes: dict[int, Weight] = {}
    for weight in weights:
        key = id(weight.parameter)
        wholes.setdefault(key, weight.whole)
        spans.setdefault(key, []).append(row_span(weight))
    return [
        whole if span == (0, whole.geometry.rows) else whole.rows(*span)
        for key, whole in wholes.items()
        for span in _joined(spans[key])
    ]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return disjoint spans, in order, that cover what the given ones cover."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found
