"""Tensors for the tests: every bit pattern, many zeros."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
OTHERS = (
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.int8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
)
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHAPES = (
    st.lists(st.integers(0, 7), max_size=4).map(tuple) | st.integers(0, 3000).map(lambda n: (n,)) | st.just((40, 90))
)


def bits(tensor: Tensor) -> Tensor:
    """Return the bit patterns."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    tensor = tensor.contiguous()
    return tensor.view(-1).view(INTEGERS[tensor.element_size()])


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same in type, shape and every bit."""
    return first.dtype == second.dtype and first.shape == second.shape and torch.equal(bits(first), bits(second))


@st.composite
def tensors(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = FLOATS + OTHERS) -> Tensor:
    """Draw a tensor: of noise in every bit, of few values, or of numbers as weights have them; with zeros among them."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(SHAPES)
    made = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = int(np.prod(shape))
    size = torch.empty((), dtype=dtype).element_size()
    kind = draw(st.sampled_from(("noise", "few", "weights")))
    if dtype == torch.bool:
        raw = made.integers(0, 2, count).astype(np.uint8)
    elif kind == "weights" and dtype.is_floating_point and size > 1:
        raw = bits(torch.from_numpy(made.standard_normal(count) * 0.05).to(dtype)).numpy().view(np.uint8)
    else:
        raw = made.integers(0, 256, count * size, dtype=np.uint8)
    table = raw.reshape(count, size).copy()
    if kind == "few" and count:
        table = table[made.integers(0, min(count, 3), count)]
    zeros = draw(st.sampled_from((0, 0.02, 0.5, 0.9, 0.999, 1)))
    table[made.random(count) < zeros] = 0
    special = draw(st.booleans()) and dtype in FLOATS and count > 3
    flat = torch.from_numpy(table.reshape(-1)).view(dtype) if count else torch.empty(0, dtype=dtype)
    if special:
        flat[:4] = torch.tensor([-0.0, float("nan"), float("-inf"), 0.0]).to(dtype)
    return flat.reshape(shape)
