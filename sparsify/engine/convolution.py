"""The convolution as an operator of torch, like the product: `torch.ops.sparsify.convolution`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify.engine.library import checked, library
from sparsify.engine.operator import ACTIVATIONS, FLOAT32, LIBRARY, of_rows, refuse
from sparsify.errors import KernelError

MOST_KERNEL_HEIGHT, MOST_STRIDE_WIDTH = 16, 64
"""What the library takes."""

LIBRARY.define(
    "convolution(Tensor x, Tensor packed, Tensor? scale, Tensor? bias, SymInt rows, SymInt[] kernel, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, int activation=0, int instructions=0) -> Tensor"
)


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image: (height, width) each, in pixels."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Zeros above, below, left and right of an image."""

    dilation: tuple[int, int]


def outputs(
    size: Sequence[Any], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[Any]:
    """Return height and width of the outputs for those of an image."""
    return [
        (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]


@torch.library.impl(LIBRARY, "convolution", "CPU")
def _convolution(
    x: Tensor,
    packed: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    rows: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: int = 0,
    instructions: int = 0,
) -> Tensor:
    if x.dtype != torch.float32 or packed.dtype != torch.uint8 or x.dim() != 4:
        raise KernelError(
            f"the engine takes images [images, channels, height, width] of float32 and packed weights; got "
            f"{tuple(x.shape)} of {x.dtype}, and {packed.dtype}"
        )
    scale, bias = of_rows("scale", scale, rows, x), of_rows("bias", bias, rows, x)
    sizes = [len(each) for each in (kernel, stride, padding, dilation)]
    if sizes != [2, 2, 4, 2] or min(*stride, *kernel, *dilation) < 1 or min(padding) < 0:
        raise KernelError("kernel, stride and dilation are two numbers from 1 on, padding four from 0 on")
    images, channels, height, width = x.shape
    out = outputs((height, width), kernel, stride, padding, dilation)
    if min(out) < 1:
        raise KernelError(f"an image of {height} × {width} with its padding is smaller than the kernel")
    x, packed = x.contiguous(), packed.contiguous()
    y = x.new_empty((images, rows, *out))
    where = (images, channels, height, width, *kernel, *stride, padding[0], padding[2], *dilation, *out)
    code = library().sparsify_convolution(
        packed.data_ptr(),
        packed.numel(),
        rows,
        FLOAT32,
        (ctypes.c_int64 * len(where))(*where),
        x.data_ptr(),
        None if scale is None else scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        activation,
        y.data_ptr(),
        torch.get_num_threads(),
        instructions,
    )
    checked(code)
    return y


@torch.library.register_fake("sparsify::convolution")  # type: ignore[untyped-decorator]
def _fake(
    x: Tensor,
    packed: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    rows: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: int = 0,
    instructions: int = 0,
) -> Tensor:
    return x.new_empty((x.shape[0], rows, *outputs(x.shape[2:], kernel, stride, padding, dilation)))


torch.library.register_autograd("sparsify::convolution", refuse)


def sparse_convolution(
    x: Tensor,
    packed: Tensor,
    window: Window,
    rows: int,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "none",
    instructions: int = 0,
) -> Tensor:
    """Return activation(scale · convolution of x + bias): x [images, channels, height, width] of float32.

    The packed weight is [rows, channels · kernel height · kernel width]; `scale` and `bias` are [rows]; the result is
    [images, rows, height, width], contiguous whatever the memory format of x. In all else it is `sparse_linear`; a
    weight of zero skips padding and what is not a number alike. Raises KernelError for shapes and types that do not
    fit, and where a gradient is asked for.
    """
    found: Tensor = torch.ops.sparsify.convolution(
        x, packed, scale, bias, rows, *map(list, astuple(window)), ACTIVATIONS.index(activation), instructions
    )
    return found
