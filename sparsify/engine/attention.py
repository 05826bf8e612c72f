"""Attention as an operator of torch: `torch.ops.sparsify.attention`, dense, in float32 on the CPU.

Masks say which keys a query attends to, true or false, as those of `scaled_dot_product_attention`. Those that are added
to scores are not computed: they are biases of positions, which cost as much to read as the scores themselves.
"""

from __future__ import annotations

import ctypes
import math

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
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "mask")),
        *((name, ctypes.c_uint64) for name in ("batch", "heads", "queries", "keys", "width", "group")),
        *((name, _Strides) for name in ("q_stride", "k_stride", "v_stride", "out_stride")),
        ("mask_stride", ctypes.c_int64 * 4),
        ("scale", ctypes.c_float),
        ("value_type", ctypes.c_uint32),
        ("causal", ctypes.c_uint32),
    )


LIBRARY.define(
    "attention(Tensor q, Tensor k, Tensor v, float scale, Tensor? mask=None, bool causal=False, int instructions=0) "
    "-> Tensor"
)


def fits(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> bool:
    """Whether the engine can compute the attention of these, each [batch, heads, tokens, width], with such a mask."""
    every = (q, k, v)
    if any(each.dtype != torch.float32 or each.device.type != "cpu" or each.dim() != 4 for each in every):
        return False
    if torch.is_grad_enabled() and any(each.requires_grad for each in every):
        return False
    batch, heads, queries, width = q.shape
    if not (k.shape == v.shape and (batch, width) == (k.shape[0], k.shape[3]) and q.numel() > 0 and k.numel() > 0):
        return False
    masks = mask is None or _is_mask(mask, (batch, heads, queries, k.shape[2]))
    return masks and heads % k.shape[1] == 0 and width % 4 == 0 and width <= MOST_WIDTH


def _is_mask(mask: Tensor, sizes: tuple[int, ...]) -> bool:
    """Whether a mask is one that can be expanded to [batch, heads, queries, keys]."""
    if mask.dtype != torch.bool or mask.device.type != "cpu" or mask.dim() > len(sizes):
        return False
    return all(mine in (1, size) for mine, size in zip(reversed(mask.shape), reversed(sizes), strict=False))


def operations(q: Tensor, k: Tensor, mask: Tensor | None = None, causal: bool = False) -> int:
    """Return how many operations the two products of an attention need, a multiplication with its addition as two.

    Only pairs of a query and a key that it attends to count.
    """
    sizes = [int(size) for size in (*q.shape[:3], k.shape[2])]
    seen = torch.ones(1, 1, dtype=torch.bool) if mask is None else mask
    if causal:
        seen = seen & torch.ones(sizes[2:], dtype=torch.bool).tril()
    return 4 * int(q.shape[3]) * int(seen.sum()) * (math.prod(sizes) // seen.numel())


@torch.library.impl(LIBRARY, "attention", "CPU")
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
    instructions: int = 0,
) -> Tensor:
    if not fits(q, k, v, mask):
        given = (q, k, v) if mask is None else (q, k, v, mask)
        shapes = ", ".join(f"{tuple(each.shape)} of {each.dtype}" for each in given)
        raise KernelError(
            f"attention takes q, k and v of float32 as [batch, heads, tokens, width], the width a multiple of 4 up to "
            f"{MOST_WIDTH}, as many heads in q as in k and v or a multiple, and a mask of bool that expands to "
            f"[batch, heads, queries, keys]; got {shapes}"
        )
    q, k, v = (each if each.stride(-1) == 1 else each.contiguous() for each in (q, k, v))
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    out = q.new_empty((batch, queries, heads, width))
    turned = out.transpose(1, 2)
    whole = None if mask is None else mask.expand(batch, heads, queries, keys)
    asked = _Asked(
        *(each.data_ptr() for each in (q, k, v, out)),
        None if whole is None else whole.data_ptr(),
        *(batch, heads, queries, keys, width, heads // k.shape[1]),
        *(_Strides(*each.stride()[:3]) for each in (q, k, v, turned)),
        (0, 0, 0, 0) if whole is None else whole.stride(),
        scale,
        FLOAT32,
        causal,
    )
    checked(library().sparsify_attention(ctypes.byref(asked), torch.get_num_threads(), instructions))
    return out


@torch.library.register_fake("sparsify::attention")  # type: ignore[untyped-decorator]
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
    instructions: int = 0,
) -> Tensor:
    batch, heads, queries, width = q.shape
    return q.new_empty((batch, queries, heads, width))


torch.library.register_autograd("sparsify::attention", refuse)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    instructions: int = 0,
) -> Tensor:
    """Return softmax(scale · q kᵀ) v as [batch, queries, heads, width], of q, k and v [batch, heads, tokens, width].

    Float32; `scale` is above 0. k and v may have fewer heads than q, by a whole factor: each serves so many heads of q
    in turn (`enable_gqa`). `mask`, of bool, expands to [batch, heads, queries, keys] and is true where a query attends
    to a key; its strides are free. `causal`: query i attends to keys 0 … i alone, of those that the mask leaves. A
    query without any key gets zeros, as in torch.

    It uses `torch.get_num_threads()` threads; the numbers do not depend on how many. A NaN or a positive infinity among
    the scores of a query makes its whole output NaN, as in torch. What a query does not attend to does not reach it,
    but for a NaN or an infinity in a value to which another query of its tile (64 at most) attends: it may.
    Raises KernelError for what does not fit, and where a gradient is asked for.
    """
    found: Tensor = torch.ops.sparsify.attention(q, k, v, scale, mask, causal, instructions)
    return found
