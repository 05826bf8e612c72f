"""How a parameter stores matrices: the one place that knows which of its dimensions are outputs, taps and inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

Layout = Literal["linear", "transposed", "conv", "deconv", "bilinear", "embedding", "bias"]
"""How one matrix is stored: linear [out, in], transposed [in, out], conv [out, in, *kernel], deconv [in, out, *kernel],
bilinear [out, in 1, in 2], embedding [tokens, features], bias [out].

Further dimensions of a linear layout are inputs, of a transposed one outputs (XLNet's [features, heads, head size]).
"""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

Form = Literal["one", "stack", "flat"]
"""What a region is: one matrix, several with a dimension of their own, or several one after the other."""


@dataclass(frozen=True)
class Storage:
    """How a parameter stores one matrix, or a stack of equal ones: experts, the groups of a transposed convolution."""

    layout: Layout
    stack: int = 0
    """How many matrices it holds, along its first dimension; 0: it is one."""

    flat: bool = False
    """Whether they are equal parts of the first dimension, instead of having it to themselves."""

    @property
    def separate(self) -> bool:
        """Whether each matrix is a tensor of its own to people: an expert is, a group of a convolution is not."""
        return self.stack > 1 and self.layout != "deconv"

    @property
    def form(self) -> Form:
        """What the whole parameter is."""
        return "one" if not self.stack else "flat" if self.flat else "stack"

    def height(self, shape: tuple[int, ...]) -> int:
        """Return the rows of each matrix in a parameter of this shape."""
        if self.stack:
            shape = (shape[0] // self.stack, *shape[1:]) if self.flat else shape[1:]
        if self.layout == "transposed":
            return math.prod(shape[1:])
        return shape[1] if self.layout == "deconv" else shape[0] if shape else 1

    def matrices(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the parameter's shape as [stack, *matrix]; a view."""
        return listed(tensor, self.form, self.stack)

    def narrow(self, matrix: Tensor, start: int, stop: int) -> Tensor:
        """Return some rows of one matrix; a view."""
        if self.layout == "transposed" and matrix.dim() > 2:
            matrix = matrix.view(matrix.shape[0], -1)
        return matrix[:, start:stop] if self.layout in ("transposed", "deconv") else matrix[start:stop]

    def cubes(self, region: Tensor, form: Form) -> Tensor:
        """Return a region as [matrices, rows, taps, columns]; a view."""
        stack = listed(region, form, self.stack)
        if self.layout == "bias":
            return stack.unsqueeze(2).flatten(2).unsqueeze(2)
        if self.layout == "bilinear":
            return stack
        if self.layout == "conv":
            return stack.flatten(3).transpose(2, 3)
        if self.layout == "deconv":
            return stack.flatten(3).permute(0, 2, 3, 1)
        matrix = stack.flatten(2)
        return (matrix.transpose(1, 2) if self.layout == "transposed" else matrix).unsqueeze(2)

    def uncubed(self, cubes: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return [matrices, rows, taps, columns] in a region's shape: the inverse of `cubes`."""
        if self.layout == "conv":
            cubes = cubes.transpose(2, 3)
        elif self.layout == "deconv":
            cubes = cubes.permute(0, 3, 1, 2)
        elif self.layout == "transposed":
            cubes = cubes.transpose(1, 3)
        return cubes.reshape(shape)


def listed(tensor: Tensor, form: Form, stack: int) -> Tensor:
    """Return a tensor as [matrices, *matrix]; a view."""
    if form == "one":
        return tensor.unsqueeze(0)
    return tensor if form == "stack" else tensor.view(stack, tensor.shape[0] // stack, *tensor.shape[1:])
