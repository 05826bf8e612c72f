"""Rows and columns leave matrices: what stays is gathered, once for all that is to go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from sparsify.layers import Weight

Side = Literal["rows", "columns"]

ROWS = ("out_features", "nf", "out_channels", "num_features", "num_channels")
COLUMNS = ("in_features", "nx", "in_channels")
"""Attributes of a layer in which the number of its rows, or columns, is kept."""


class Cutting:
    """Collects what leaves the matrices of a model, and then takes it out, in place."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[tuple[int, Side], Tensor] = {}
        """Whether each line stays; bool [matrices, lines] by parameter."""

        self._weights: dict[int, Weight] = {}

    def rows(self, weight: Weight, kept: Tensor) -> None:
        """Note which rows of a weight stay: bool, one for each (those of a stack one matrix after another)."""
        lines = self._lines(weight, "rows")
        start, stop = weight.span or (0, lines.numel())
        flat = lines.view(-1)
        flat[start:stop] &= kept.cpu()
        bias = weight.bias()
        if bias is not None and weight.layout != "bias":
            self.rows(bias, kept)

    def columns(self, weight: Weight, kept: Tensor) -> None:
        """Note which columns of a weight stay: bool, one for each of its columns; of an expert, in its own matrix."""
        lines = self._lines(weight, "columns")
        start, stop = weight.span or (0, len(lines) * max(weight.height, 1))
        height = max(weight.height, 1)
        lines[start // height : max(-(-stop // height), start // height + 1)] &= kept.cpu()

    def fits(self) -> bool:
        """Whether as many lines stay in every matrix of a stack."""
        return all(len(set(lines.sum(1).tolist())) == 1 for lines in self._kept.values())

    def apply(self) -> None:
        """Take out what does not stay."""
        places = _places(self._model)
        for key, weight in self._weights.items():
            rows, columns = (self._kept.get((key, side)) for side in ("rows", "columns"))
            old = weight.parameter
            new = nn.Parameter(gathered(weight, old.detach(), rows, columns), old.requires_grad)
            for module, name in places[id(old)]:
                module._parameters[name] = new
                _resize(module, rows, columns)

    def _lines(self, weight: Weight, side: Side) -> Tensor:
        whole = weight.whole
        key = id(weight.parameter)
        self._weights.setdefault(key, whole)
        if (key, side) not in self._kept:
            shape = whole.geometry
            count = max(whole.storage.stack, 1)
            lines = shape.rows // count if side == "rows" else shape.columns
            self._kept[key, side] = torch.ones(count, lines, dtype=torch.bool)
        return self._kept[key, side]


def gathered(weight: Weight, tensor: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Return a tensor of a whole weight's shape with only some rows and columns: bool [matrices, lines], None = all."""
    storage = weight.storage
    matrices: Tensor = storage.matrices(tensor)
    across = storage.layout in ("transposed", "deconv")
    found: list[Tensor] = []
    for number, matrix in enumerate(matrices):
        for lines, axis in ((rows, 1 if across else 0), (columns, 0 if across else 1)):
            if lines is not None:
                matrix = matrix.index_select(axis, lines[number].nonzero().flatten().to(matrix.device))
        found.append(matrix)
    if not storage.stack:
        return found[0].clone() if rows is None and columns is None else found[0]
    return torch.cat(found) if storage.flat else torch.stack(found)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return where each parameter is kept: (module, name), once for every tie."""
    found: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found[id(parameter)].append((module, name))
    return found


def _resize(module: nn.Module, rows: Tensor | None, columns: Tensor | None) -> None:
    """Have a layer say how many rows and columns it has now."""
    for lines, names in ((rows, ROWS), (columns, COLUMNS)):
        if lines is not None and len(lines) == 1:
            follow([module], names, lines.numel(), int(lines.sum()))


def follow(modules: Iterable[nn.Module], names: Iterable[str], old: int, new: int) -> None:
    """Set attributes of these names that hold a number to another one."""
    names = tuple(names)
    for module in modules:
        for name in names:
            value = vars(module).get(name)
            if type(value) is int and value == old:
                setattr(module, name, new)


def narrow_norm(module: nn.Module, before: int, after: int) -> None:
    """Have a layer norm over so many features say how many it has now."""
    if module.__dict__.get("normalized_shape") == (before,):
        module.__dict__["normalized_shape"] = (after,)
