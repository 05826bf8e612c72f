"""The product as an operator of torch: `torch.ops.sparsify.linear`, for eager, `torch.compile` and `torch.export`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify.engine.library import checked, library
from sparsify.errors import KernelError

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
"""Their places are their numbers in the library. `gelu` is exact (erf), `gelu_tanh` torch's approximation."""

FLOAT32 = 0
NO_GRADIENTS = (
    "sparse layers compute no gradients: call the model under torch.inference_mode() or torch.no_grad(), or give it "
    "its dense layers back with sparsify.engine.restore(model)"
)

LIBRARY: Any = torch.library.Library("sparsify", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define(
    "linear(Tensor x, Tensor packed, Tensor? bias, int rows, int activation=0, int instructions=0) -> Tensor"
)


@torch.library.impl(LIBRARY, "linear", "CPU")
def _linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, rows: int, activation: int = 0, instructions: int = 0
) -> Tensor:
    if x.dtype != torch.float32 or packed.dtype != torch.uint8 or x.dim() == 0:
        raise KernelError(f"the engine multiplies float32 by packed weights; got {x.dtype} and {packed.dtype}")
    bias = of_rows("bias", bias, rows, x)
    x, packed = x.contiguous(), packed.contiguous()
    columns = x.shape[-1]
    y = x.new_empty((*x.shape[:-1], rows))
    code = library().sparsify_linear(
        packed.data_ptr(),
        packed.numel(),
        rows,
        columns,
        FLOAT32,
        x.data_ptr(),
        x.numel() // max(columns, 1),
        None if bias is None else bias.data_ptr(),
        activation,
        y.data_ptr(),
        torch.get_num_threads(),
        instructions,
    )
    checked(code)
    return y


@torch.library.register_fake("sparsify::linear")  # type: ignore[untyped-decorator]
def _fake(
    x: Tensor, packed: Tensor, bias: Tensor | None, rows: int, activation: int = 0, instructions: int = 0
) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


def of_rows(what: str, found: Tensor | None, rows: int, x: Tensor) -> Tensor | None:
    """Return a vector with a number for each row, contiguous, or None. Raises KernelError where it is not one."""
    if found is None:
        return None
    if found.dtype != torch.float32 or found.shape != (rows,) or found.device != x.device:
        raise KernelError(f"the {what} is {tuple(found.shape)} of {found.dtype}; it must be ({rows},) of float32")
    return found.contiguous()


def refuse(*_: Any, **__: Any) -> None:
    """Raise KernelError: what stands for the backward of the engine's operators."""
    raise KernelError(NO_GRADIENTS)


torch.library.register_autograd("sparsify::linear", refuse)


def sparse_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, rows: int, activation: str = "none", instructions: int = 0
) -> Tensor:
    """Return activation(x · Wᵀ + bias): x [..., columns] and bias [rows] of float32, W packed, the result [..., rows].

    It uses `torch.get_num_threads()` threads; the numbers do not depend on how many. `instructions` is 0 for the best
    that the processor has, else a number of `library.INSTRUCTIONS`. A weight of zero is skipped: a NaN or an infinity
    in its input does not reach the output, as it would in a dense product; but where another row of its group (height
    2 and 4) keeps the column it gives NaN, as there. Raises KernelError for shapes and types that do not fit, and where
    a gradient is asked for.
    """
    found: Tensor = torch.ops.sparsify.linear(x, packed, bias, rows, ACTIVATIONS.index(activation), instructions)
    return found
