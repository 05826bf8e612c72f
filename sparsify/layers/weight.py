"""One prunable parameter, or some of its rows, seen as rows (outputs) × taps × columns (inputs).

A mask has the shape of its weight's region; patterns see the cube.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from torch import Tensor, nn

from sparsify.layers.storage import Form, Layout, Storage

FORWARD = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (*FORWARD, *TRANSPOSED)


@dataclass(frozen=True)
class Geometry:
    """The size of a cube. A linear layer has one tap; a grouped convolution's row sees `columns` inputs."""

    rows: int
    """Output features."""

    taps: int
    """Places of the kernel; 1 but for convolutions (and bilinear layers: their first input's features)."""

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
    """A prunable parameter of a module, or some of its rows; found anew by name each time it is used.

    Where a parameter holds several equal matrices (experts), its rows are those of the first, then of the second, …:
    an expert is a run of rows.
    """

    parameter_name: str
    """The parameter's name in the model when it was planned."""

    module: nn.Module
    attribute: str
    layout: Layout
    span: tuple[int, int] | None = None
    """First and last + 1 of the rows that are meant, where several matrices share a parameter."""

    stack: int = 0
    flat: bool = False
    """See `Storage`."""

    @classmethod
    def of(cls, parameter_name: str, module: nn.Module, attribute: str, storage: Storage) -> Weight:
        """Return the weight of a whole parameter that is stored in this way."""
        return cls(parameter_name, module, attribute, storage.layout, None, storage.stack, storage.flat)

    @cached_property
    def storage(self) -> Storage:
        """How the parameter stores its matrices."""
        return Storage(self.layout, self.stack, self.flat)

    @property
    def parameter(self) -> nn.Parameter:
        """The whole parameter as it is now."""
        parameter: nn.Parameter = getattr(self.module, self.attribute)
        return parameter

    @cached_property
    def name(self) -> str:
        """The parameter's name; with its experts, or its rows, in brackets where only some are meant."""
        if self.span is None:
            return self.parameter_name
        if not self.stack:
            return f"{self.parameter_name}[{self.span[0]}:{self.span[1]}]"
        which, inside = self._matrices, self._inside
        if len(which) > 1:
            return f"{self.parameter_name}[{which.start}:{which.stop}]"
        rows = "" if inside == (0, self.height) else f", {inside[0]}:{inside[1]}"
        return f"{self.parameter_name}[{which.start}{rows}]"

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

    @property
    def convolution(self) -> bool:
        """Whether it has filters and channels."""
        return self.layout in ("conv", "deconv")

    @cached_property
    def geometry(self) -> Geometry:
        """How large the cube is."""
        count, rows, taps, columns = self.storage.cubes(self.tensor, self._form).shape
        groups = self.module.groups if self.convolution and isinstance(self.module, CONVOLUTIONS) else 1
        return Geometry(count * rows, taps, columns, groups, 0 if self.layout == "bias" else sum(self.shape))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the region."""
        return tuple(self.region(self.parameter.detach()).shape)

    @cached_property
    def height(self) -> int:
        """The rows of each matrix of the whole parameter."""
        return self.storage.height(tuple(self.parameter.shape))

    @cached_property
    def _matrices(self) -> range:
        """Which matrices of a stack the rows lie in."""
        start, stop = self.span or (0, self.height * self.stack)
        height = max(self.height, 1)
        return range(start // height, max(-(-stop // height), start // height + 1))

    @cached_property
    def _inside(self) -> tuple[int, int]:
        """The rows in the first matrix of a stack."""
        start, stop = self.span or (0, self.height)
        first = self._matrices[0] * self.height
        return start - first, min(stop - first, self.height)

    @cached_property
    def _form(self) -> Form:
        if self.span is None:
            return self.storage.form
        return "stack" if self.stack and len(self._matrices) > 1 else "one"

    def region(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor of the parameter's shape that is this weight; a view."""
        if self.span is None:
            return tensor
        if not self.stack:
            return self.storage.narrow(tensor, *self.span)
        matrices, which = self.storage.matrices(tensor), self._matrices
        if len(which) > 1:
            return matrices[which.start : which.stop]
        return self.storage.narrow(matrices[which.start], *self._inside)

    def rows(self, start: int, stop: int) -> Weight:
        """Return the weight made of some rows of the parameter: rows of one matrix, or all of several; see `pieces`."""
        return self.whole if (start, stop) == row_span(self.whole) else replace(self, span=(start, stop))

    def pieces(self, start: int, stop: int) -> list[Weight]:
        """Return weights that have the rows start … < stop of the parameter together, whichever they are."""
        height = self.height
        first, last = -(-start // max(height, 1)) * height, stop // max(height, 1) * height
        if not self.stack or first > last or (start, stop) == row_span(self.whole):
            return [self.rows(start, stop)]
        cuts = sorted({start, first, last, stop})
        return [self.rows(*span) for span in pairwise(cuts)]

    def apart(self) -> list[Weight]:
        """Return the matrices of the parameter that are tensors of their own to people: each expert's; else itself."""
        if not self.storage.separate:
            return [self]
        return [self.rows(index * self.height, (index + 1) * self.height) for index in range(self.stack)]

    def cube(self, region: Tensor) -> Tensor:
        """Return a tensor of the region's shape as [rows, taps, columns].

        A view, unless it joins several matrices that are stored transposed.
        """
        return self.storage.cubes(region, self._form).flatten(0, 1)

    def uncube(self, cube: Tensor) -> Tensor:
        """Return a cube [rows, taps, columns] in the region's shape: the inverse of `cube`."""
        count = 1 if self._form == "one" else len(self._matrices)
        return self.storage.uncubed(cube.reshape(count, len(cube) // count, *cube.shape[1:]), self.shape)

    def bias(self) -> Weight | None:
        """Return the bias of these rows, or None."""
        attribute = _bias_of(self.attribute)
        bias = getattr(self.module, attribute, None)
        if not isinstance(bias, nn.Parameter):
            return None
        owner = self.parameter_name.rpartition(".")[0]
        name = f"{owner}.{attribute}" if owner else attribute
        stack = self.stack if bias.dim() > 1 else 0
        whole = Weight(name, self.module, attribute, "bias", stack=stack)
        return whole.rows(*self.span) if self.span else whole


def _bias_of(attribute: str) -> str:
    """Return the name of the bias beside a weight: `bias`, `in_proj_bias`, `bias_ih_l0`, `down_proj_bias`."""
    if attribute.startswith(("weight_ih", "weight_hh")):
        return attribute.replace("weight", "bias", 1)
    if attribute == "in_proj_weight":
        return "in_proj_bias"
    return f"{attribute}_bias" if attribute.endswith("_proj") else "bias"


def row_span(weight: Weight) -> tuple[int, int]:
    """Return the first and last + 1 of the rows of the parameter that a weight has."""
    return weight.span or (0, weight.height * max(weight.storage.stack, 1))


class Rows:
    """Rows of parameters, to be asked which of them a weight has; the weights do not overlap each other."""

    def __init__(self, weights: Iterable[Weight]) -> None:
        self._spans: dict[int, list[tuple[int, int]]] = {}
        for weight in weights:
            self._spans.setdefault(id(weight.parameter), []).append(row_span(weight))

    def shared(self, weight: Weight) -> int:
        """Return how many rows of a weight are among them."""
        start, stop = row_span(weight)
        spans = self._spans.get(id(weight.parameter), ())
        return sum(max(min(stop, last) - max(start, first), 0) for first, last in spans)


def shared_rows(weight: Weight, others: Iterable[Weight]) -> int:
    """Return how many rows of `weight` are rows of `others` too (which do not overlap each other)."""
    return Rows(others).shared(weight)


def merged(weights: Iterable[Weight]) -> list[Weight]:
    """Return weights that have the same rows together, each row once, in the order of their parameters."""
    spans: dict[int, list[tuple[int, int]]] = {}
    wholes: dict[int, Weight] = {}
    for weight in weights:
        key = id(weight.parameter)
        wholes.setdefault(key, weight.whole)
        spans.setdefault(key, []).append(row_span(weight))
    return [piece for key, whole in wholes.items() for span in _joined(spans[key]) for piece in whole.pieces(*span)]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return disjoint spans, in order, that cover what the given ones cover."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found
