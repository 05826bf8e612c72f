"""Convolutions whose product is the engine's, and the batch norm behind them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparsify.engine.convolution import MOST_KERNEL_HEIGHT, MOST_STRIDE_WIDTH, Window, sparse_convolution
from sparsify.engine.layer import Sparse, rows_of
from sparsify.engine.norms import terms
from sparsify.errors import KernelError


class SparseConvolution(Sparse):
    """What sparse convolutions share; images have two sizes, sequences are images of one row."""

    sparsify_norm: list[nn.Module]
    """The batch norm that is computed with it, in a list, so that it is no part of this module; empty for none."""

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the outputs for inputs of float32; one image needs no batch."""
        made: Any = self
        sides = len(made.kernel_size)
        if x.dim() not in (sides + 1, sides + 2) or x.shape[-sides - 1] != made.in_channels:
            raise KernelError(
                f"this convolution takes {made.in_channels} channels and {sides} more sizes; got {tuple(x.shape)}"
            )
        images = x if x.dim() == sides + 2 else x.unsqueeze(0)
        scale = None
        if self.sparsify_norm:
            scale, bias = terms(self, self.sparsify_norm[0], bias)
        y = sparse_convolution(
            images if sides == 2 else images.unsqueeze(2), self.sparsify_packed, window_of(self), rows_of(self),
            scale=scale, bias=bias, activation=self.sparsify_activation,
        )  # fmt: skip
        y = y if sides == 2 else y.squeeze(2)
        return y if x.dim() == sides + 2 else y.squeeze(0)


class SparseConv2d(SparseConvolution, nn.Conv2d):
    """An `nn.Conv2d` whose product is the engine's."""


class SparseConv1d(SparseConvolution, nn.Conv1d):
    """An `nn.Conv1d` whose product is the engine's."""


def window_of(module: nn.Module) -> Window:
    """Return how the kernel of an `nn.Conv1d` or `nn.Conv2d` moves."""
    made: Any = module
    kernel, stride, dilation = made.kernel_size, made.stride, made.dilation
    if made.padding == "valid":
        sides = [(0, 0)] * len(kernel)
    elif made.padding == "same":  # as torch does: of an odd number the larger part comes after
        needed = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        sides = [(each // 2, each - each // 2) for each in needed]
    else:
        sides = [(each, each) for each in made.padding]
    ones = (1,) * (2 - len(kernel))
    before, after = ((0, 0),) * len(ones), tuple(sides)
    top, left = (*before, *after)
    return Window((*ones, *kernel), (*ones, *stride), (*top, *left), (*ones, *dilation))


def unfit(module: nn.Module) -> str:
    """Return why the engine cannot take the shape of a convolution; empty where it can."""
    made: Any = module
    if made.groups > 1:
        return f"it has {made.groups} groups: the engine takes convolutions of one"
    if made.padding_mode != "zeros":
        return f"its padding is {made.padding_mode}: the engine pads with zeros"
    window = window_of(module)
    if window.kernel[0] > MOST_KERNEL_HEIGHT:
        return f"its kernel has {window.kernel[0]} rows: the engine takes {MOST_KERNEL_HEIGHT} at most"
    if window.stride[1] > MOST_STRIDE_WIDTH:
        return f"its stride is {window.stride[1]}: the engine takes {MOST_STRIDE_WIDTH} at most"
    return ""


def take(module: nn.Module, norm: nn.Module | None) -> None:
    """Let a convolution that has just become sparse compute the norm behind it, too."""
    made: Any = module
    made.sparsify_norm = [norm] if norm is not None else []
