"""The engine's attention as an operator, without masks: its numbers, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify import KernelError
from sparsify.engine.attention import attend
from tests.engine.attention import SETS, inputs

SHAPES = [(1, 1, 1, 1, 4), (2, 3, 7, 5, 20), (1, 2, 64, 128, 64), (2, 2, 70, 33, 32), (1, 1, 130, 300, 128)]
"""(batch, heads, queries, keys, width)."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("instructions", SETS)
def test_it_is_as_exact_as_torch(shape: tuple[int, ...], instructions: int) -> None:
    q, k, v = inputs(*shape)
    for scale in (0.125, 2.0):
        wanted = functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=scale)
        by_torch = functional.scaled_dot_product_attention(q, k, v, scale=scale)
        found = attend(q, k, v, scale, instructions=instructions)
        assert found.is_contiguous()
        error = float((found.transpose(1, 2) - wanted).abs().max())
        assert error <= 2 * float((by_torch - wanted).abs().max()) + 1e-7


def test_inputs_may_lie_in_any_way() -> None:
    q, k, v = inputs(2, 3, 20, 9, 8)
    wanted = attend(q, k, v, 0.5)
    whole_rows = torch.cat([torch.randn(2, 3, 20, 5), q, torch.randn(2, 3, 20, 3)], -1)
    turned = v.transpose(2, 3).contiguous().transpose(2, 3)
    assert turned.stride(-1) != 1
    assert torch.equal(attend(whole_rows[..., 5:13], k.contiguous(), turned, 0.5), wanted)


def test_threads_change_no_bit() -> None:
    q, k, v = inputs(2, 3, 150, 90, 32)
    before, wanted = torch.get_num_threads(), attend(q, k, v, 0.5)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(attend(q, k, v, 0.5), wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("instructions", SETS)
def test_what_is_not_finite_goes_where_it_goes_in_torch(instructions: int) -> None:
    nan, infinity = float("nan"), float("inf")
    for place, value in ((0, nan), (0, infinity), (1, nan), (1, infinity), (2, nan), (2, infinity), (2, -infinity)):
        given = inputs(1, 2, 70, 40, 8)
        given[place][0, 1, 3, 2] = value
        found = attend(*given, 0.5, instructions=instructions).transpose(1, 2)
        wanted = functional.scaled_dot_product_attention(*(each.double() for each in given), scale=0.5)
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.allclose(found.double(), wanted, atol=1e-5, equal_nan=True)
    q, k, v = inputs(1, 2, 70, 40, 8)
    odd = torch.tensor([0x7F812345], dtype=torch.int32).view(torch.float32)  # a NaN with more bits than usual
    q[0, 0, 5, 0] = odd[0]
    assert attend(q, k, v, 0.5, instructions=instructions)[0, 5, 0].isnan().all()
    q, k, v = inputs(1, 2, 70, 40, 8)
    q[0, 1, 3, 2], k = -infinity, k.abs()
    assert not attend(q, k, v, 0.5, instructions=instructions)[0, 3, 1].any(), "no score is above -∞"
    assert not functional.scaled_dot_product_attention(q, k, v)[0, 1, 3].any(), "as in torch"
    q, k, v = inputs(1, 1, 9, 6, 8)
    largest = functional.scaled_dot_product_attention(1e4 * q.double(), 1e4 * k.double(), v.double(), scale=1.0)
    assert torch.allclose(
        attend(1e4 * q, 1e4 * k, v, 1.0, instructions=instructions).transpose(1, 2).double(), largest, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore")
def test_the_operator_is_checked_exported_and_traced() -> None:
    q, k, v = inputs(2, 3, 20, 9, 8)
    torch.library.opcheck(torch.ops.sparsify.attention.default, (q, k, v, 0.5))

    class Product(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.relu(attend(q * 2, k, v, 0.5))

    wanted = Product()(q, k, v)
    assert torch.equal(torch.export.export(Product(), (q, k, v)).module()(q, k, v), wanted)
    with torch.inference_mode():
        assert torch.equal(torch.compile(Product(), fullgraph=True, backend="aot_eager")(q, k, v), wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q.double(), k, v, 0.5), "attention takes q, k and v of float32"),
        (lambda q, k, v: (q, k[:, :2], v[:, :2], 0.5), "as many heads in q as in k and v"),
        (lambda q, k, v: (q, k, v[:, :, :3], 0.5), "as many heads in q as in k and v"),
        (lambda q, k, v: (q[..., :6], k[..., :6], v[..., :6], 0.5), "a multiple of 4 up to 256"),
        (lambda q, k, v: (q[0], k[0], v[0], 0.5), r"got \(3, 20, 8\)"),
        (lambda q, k, v: (q, k, v, 0.0), "is none that the engine has"),
        (lambda q, k, v: (q, k, v, float("nan")), "is none that the engine has"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        attend(*change(*inputs(2, 3, 20, 9, 8)))


def test_instructions_that_are_not_there_are_refused() -> None:
    with pytest.raises(KernelError, match="lacks the instructions"):
        attend(*inputs(2, 3, 20, 9, 8), 0.5, instructions=99)


def test_gradients_are_refused() -> None:
    q, k, v = inputs(1, 1, 20, 9, 8)
    with pytest.raises(KernelError, match="compute no gradients"):
        attend(q.requires_grad_(), k, v, 0.5).sum().backward()
