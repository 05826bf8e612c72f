"""Parameters that hold several matrices, and are saved as several tensors: which rows of them each is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify.layers import Weight, all_weights, row_span
from sparsify.pretrained import as_saved


@dataclass(frozen=True)
class Apart:
    """A saved tensor that is some rows of a parameter."""

    parameter: str
    start: int
    """The first row."""

    axis: int
    """The dimension of the saved tensor along which rows lie."""

    def of(self, weight: Weight, tensor: Tensor) -> Tensor:
        """Return what the saved tensor has of a weight of the parameter; maybe nothing."""
        first, last = row_span(weight)
        size = tensor.shape[self.axis]
        begin, end = (min(max(row - self.start, 0), size) for row in (first, last))
        return tensor.narrow(self.axis, begin, end - begin)


def apart(model: nn.Module) -> dict[str, Apart]:
    """Return name in a saved file → what that is, of the tensors that transformers makes of parameters with experts.

    Every such parameter is given to transformers with the number of its row in the place of every weight.
    """
    wholes = {weight.parameter_name: weight.whole for weight in all_weights(model) if weight.stack}
    numbered: dict[str, Tensor] = {}
    begins: list[tuple[int, str]] = []
    row = 0
    for name, whole in wholes.items():
        begins.append((row, name))
        numbered[name] = _numbered(whole, row)
        row += whole.height * whole.stack
    found = {}
    for key, tensor in as_saved(model, dict(numbered)).items() if numbered else ():
        place = _rows(tensor) if key not in numbered else None
        if place is not None:
            start, axis = place
            begin, owner = max(pair for pair in begins if pair[0] <= start)
            found[key] = Apart(owner, start - begin, axis)
    return found


def _numbered(whole: Weight, first: int) -> Tensor:
    """Return a tensor of a parameter's shape with the number of its row in every place."""
    shape = tuple(whole.parameter.shape)
    rows = torch.arange(first, first + whole.height * whole.stack)
    if whole.layout == "transposed":
        inputs = shape[0] // whole.stack if whole.flat else shape[1]
        return rows.view(whole.stack, 1, whole.height).expand(-1, inputs, -1).reshape(shape)
    return rows.view(-1, 1).expand(-1, math.prod(shape) // max(len(rows), 1)).reshape(shape)


def _rows(tensor: Tensor) -> tuple[int, int] | None:
    """Return the first row of a numbered tensor, and the dimension along which rows follow each other, or None."""
    for axis in range(tensor.dim()):
        line = tensor[tuple(slice(None) if at == axis else 0 for at in range(tensor.dim()))]
        in_order = len(line) > 1 and bool((line.diff() == 1).all())
        if in_order and tensor.flatten()[-1] == line[-1]:  # and nothing else in the tensor has other rows
            return int(line[0]), axis
    return None
