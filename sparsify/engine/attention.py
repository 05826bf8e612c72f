"""Attention without a mask as an operator of torch: `torch.ops.sparsify.attention`, dense, in float32 on the CPU."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsify.engine.library import checked, library
from sparsify.engine.operator import FLOAT32, LIBRARY, refuse
from sparsify.errors import KernelError

MOST_WIDTH = 256
"""Of a head: beyond it what a tile reads does not fit the caches."""

_Strides = ctypes.c_int64 * 3


class _Asked(ctypes.Structure):
    """`SparsifyAttention` of engine.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out")),
        *((name, ctypes.c_uint64) for name in ("batch", "heads", "queries", "keys", "width")),
        *((name, _Strides) for name in ("q_stride", "k_stride", "v_stride", "out_stride")),
        ("scale", ctypes.c_float),
        ("value_type", ctypes.c_uint32),
    )


LIBRARY.define("attention(Tensor q, Tensor k, Tensor v, float scale, int instructions=0) -> Tensor")


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the engine can compute the attention of these, each [batch, heads, tokens, width]."""
    every = (q, k, v)
    if any(each.dtype != torch.float32 or each.device.type != "cpu" or each.dim() != 4 for each in every):
        return False
    if torch.is_grad_enabled() and any(each.requires_grad for each in every):
        return False
    width = q.shape[-1]
    alike = k.shape == v.shape and (*q.shape[:2], width) == (*k.shape[:2], width) and k.shape[-1] == width
    return alike and q.numel() > 0 and k.numel() > 0 and width % 4 == 0 and width <= MOST_WIDTH


@torch.library.impl(LIBRARY, "attention", "CPU")
def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, instructions: int = 0) -> Tensor:
    if not fits(q, k, v):
        shapes = ", ".join(f"{tuple(each.shape)} of {each.dtype}" for each in (q, k, v))
        raise KernelError(
            f"attention takes q, k and v of float32 as [batch, heads, tokens, width], the width a multiple of 4 up to "
            f"{MOST_WIDTH}, the same heads in all; got {shapes}"
        )
    q, k, v = (each if each.stride(-1) == 1 else each.contiguous() for each in (q, k, v))
    batch, heads, queries, width = q.shape
    out = q.new_empty((batch, queries, heads, width))
    turned = out.transpose(1, 2)
    asked = _Asked(
        *(each.data_ptr() for each in (q, k, v, out)),
        *(batch, heads, queries, k.shape[2], width),
        *(_Strides(*each.stride()[:3]) for each in (q, k, v, turned)),
        scale,
        FLOAT32,
    )
    checked(library().sparsify_attention(ctypes.byref(asked), torch.get_num_threads(), instructions))
    return out


@torch.library.register_fake("sparsify::attention")  # type: ignore[untyped-decorator]
def _fake(q: Tensor, k: Tensor, v: Tensor, scale: float, instructions: int = 0) -> Tensor:
    batch, heads, queries, width = q.shape
    return q.new_empty((batch, queries, heads, width))


torch.library.register_autograd("sparsify::attention", refuse)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, instructions: int = 0) -> Tensor:
    """Return softmax(scale · q kᵀ) v as [batch, queries, heads, width], of q, k and v [batch, heads, tokens, width].

    Float32, without a mask; `scale` is above 0. It uses `torch.get_num_threads()` threads; the numbers do not depend on
    how many. A NaN or a positive infinity among the scores of a query makes its whole output NaN, as in torch. Raises
    KernelError for what does not fit, and where a gradient is asked for.
    """
    found: Tensor = torch.ops.sparsify.attention(q, k, v, scale, instructions)
    return found
