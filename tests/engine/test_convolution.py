"""Sparse convolutions as an operator: what they compute, against float64, for every instruction set; what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sparsify import KernelError
from sparsify.engine import Window, pack, sparse_convolution
from sparsify.engine.packed import HEIGHTS
from tests.engine.test_numbers import EACH, EPSILON

THREE = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


def sparse(*sizes: int, density: float = 0.2, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(*sizes, generator=made) * (torch.rand(*sizes, generator=made) < density)


def dense(x: Tensor, weight: Tensor, window: Window, bias: Tensor | None = None) -> Tensor:
    top, bottom, left, right = window.padding
    return functional.conv2d(
        functional.pad(x, (left, right, top, bottom)), weight, bias, window.stride, 0, window.dilation
    )


def relative_error(y: Tensor, x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The error of each output in units of Σ|w||x|."""
    exact = dense(x.double(), weight.double(), window)
    scale = dense(x.double().abs(), weight.double().abs(), window)
    return (y.double() - exact).abs() / scale.clamp_min(torch.finfo(torch.float64).tiny)


@pytest.mark.parametrize("instructions", EACH)
def test_errors_are_at_most_twice_those_of_a_dense_convolution(instructions: int) -> None:
    shapes = [((64, 48, 1, 1), 1, 0), ((70, 32, 3, 3), 1, 1), ((270, 40, 3, 3), 2, 1), ((16, 3, 7, 7), 2, 3)]
    for (shape, stride, padding), height, density in itertools.product(shapes, HEIGHTS, (0.05, 1.0)):
        weight, x = sparse(*shape, density=density), torch.randn(2, shape[1], 15, 14)
        window = Window(shape[2:], (stride, stride), (padding,) * 4, (1, 1))
        y = sparse_convolution(x, pack(weight.flatten(1), height), window, shape[0], instructions=instructions)
        ours = relative_error(y, x, weight, window)
        torchs = relative_error(dense(x, weight, window), x, weight, window)
        assert float(ours.max()) <= 2 * max(float(torchs.max()), 2 * EPSILON)
        assert float(ours.mean()) <= 2 * max(float(torchs.mean()), EPSILON / 8)


@settings(max_examples=80)
@given(
    images=st.integers(0, 4),
    channels=st.integers(1, 6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 90)),
    rows=st.sampled_from([1, 5, 64, 300]),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 4)] * 4),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    height=st.sampled_from(HEIGHTS),
    instructions=st.sampled_from(EACH),
    seed=st.integers(0, 2**16),
)
def test_every_shape_is_computed(
    images: int, channels: int, size: Any, rows: int, kernel: Any, stride: Any, padding: Any, dilation: Any,
    height: int, instructions: int, seed: int,
) -> None:  # fmt: skip
    window = Window(kernel, stride, padding, dilation)
    weight = sparse(rows, channels, *kernel, seed=seed)
    made = torch.Generator().manual_seed(seed)
    x, bias = torch.randn(images, channels, *size, generator=made), torch.randn(rows, generator=made)
    packed = pack(weight.flatten(1), height)
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if size[0] + padding[0] + padding[1] <= spans[0] or size[1] + padding[2] + padding[3] <= spans[1]:
        with pytest.raises(KernelError, match="is smaller than the kernel"):
            sparse_convolution(x, packed, window, rows, instructions=instructions)
        return
    y = sparse_convolution(x, packed, window, rows, bias=bias, activation="relu", instructions=instructions)
    wanted = dense(x.double(), weight.double(), window, bias.double()).relu()
    assert y.shape == wanted.shape
    assert torch.allclose(y.double(), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("instructions", EACH)
def test_empty_rows_zeros_and_what_is_not_a_number(instructions: int) -> None:
    weight = sparse(40, 5, 3, 3).abs()
    weight[::3] = 0
    x, bias = torch.rand(3, 5, 9, 9), torch.randn(40)
    for height in HEIGHTS:
        y = sparse_convolution(x, pack(weight.flatten(1), height), THREE, 40, bias=bias, instructions=instructions)
        assert torch.equal(y[:, ::3], bias[::3].view(1, -1, 1, 1).expand(3, -1, 9, 9))
        nothing = sparse_convolution(x, pack(torch.zeros(40, 45), height), THREE, 40, instructions=instructions)
        assert torch.equal(nothing, torch.zeros(3, 40, 9, 9))
        broken = x.clone()
        broken[1, 2, 4, 4] = float("nan")
        y = sparse_convolution(broken, pack(weight.flatten(1), height), THREE, 40, instructions=instructions)
        near = torch.zeros(3, 1, 9, 9, dtype=torch.bool)
        near[1, :, 3:6, 3:6] = True
        assert y[~near.expand(-1, 40, -1, -1)].isfinite().all(), "other places never see it"
        for row, (down, right) in itertools.product(range(40), itertools.product(range(3), range(3))):
            reached = bool(weight[row, 2, down, right] != 0)
            if reached or height == 1:
                assert bool(y[1, row, 5 - down, 5 - right].isnan()) == reached


def test_scale_bias_and_activation_are_taken_in_this_order() -> None:
    weight, x, scale, bias = sparse(20, 4, 3, 3), torch.randn(2, 4, 6, 7), torch.randn(20), torch.randn(20)
    y = sparse_convolution(x, pack(weight.flatten(1)), THREE, 20, scale=scale, bias=bias, activation="gelu")
    wanted = functional.gelu(dense(x, weight, THREE) * scale.view(-1, 1, 1) + bias.view(-1, 1, 1))
    assert torch.allclose(y, wanted, atol=1e-5)


def test_numbers_do_not_depend_on_threads_nor_on_the_order_in_memory() -> None:
    weight, x, before = sparse(600, 6, 3, 3), torch.randn(5, 6, 13, 11), torch.get_num_threads()
    packed = pack(weight.flatten(1))
    found = []
    try:
        for threads in (1, 2, 3, 7, 1):
            torch.set_num_threads(threads)
            found.append(sparse_convolution(x, packed, THREE, 600))
    finally:
        torch.set_num_threads(before)
    found.append(sparse_convolution(x.to(memory_format=torch.channels_last), packed, THREE, 600))
    assert all(torch.equal(each, found[0]) for each in found)
    assert found[-1].is_contiguous()


def test_opcheck_passes() -> None:
    weight = pack(sparse(20, 4, 3, 3).flatten(1))
    lists = ([3, 3], [2, 1], [1, 1, 0, 2], [1, 2])
    for scale in (None, torch.randn(20)):
        arguments = (torch.randn(2, 4, 9, 8), weight, scale, scale, 20, *lists, 1)
        torch.library.opcheck(torch.ops.sparsify.convolution.default, arguments)


@pytest.mark.filterwarnings("ignore")
def test_it_is_exported_for_any_size() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("packed", pack(sparse(20, 4, 3, 3).flatten(1)))
            self.packed: Tensor

        def forward(self, x: Tensor) -> Tensor:
            return sparse_convolution(x, self.packed, THREE, 20) * 2

    model, x = Product(), torch.randn(2, 4, 9, 9)
    sides = {2: torch.export.Dim("height", min=4, max=64), 3: torch.export.Dim("width", min=4, max=64)}
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": sides})
    for size in ((9, 9), (30, 17)):
        given = torch.randn(2, 4, *size)
        assert torch.equal(exported.module()(given), model(given))


def test_gradients_are_refused_with_a_sentence() -> None:
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    with pytest.raises(KernelError, match="compute no gradients"):
        sparse_convolution(x, pack(sparse(20, 4, 3, 3).flatten(1)), THREE, 20).sum().backward()


@pytest.mark.parametrize(
    ("x", "change", "words"),
    [
        (torch.randn(4, 9, 9), {}, r"takes images \[images, channels, height, width\]"),
        (torch.randn(1, 4, 9, 9).double(), {}, "float64"),
        (torch.randn(1, 3, 9, 9), {}, "of another shape"),
        (torch.randn(1, 4, 9, 9), {"kernel": (17, 1)}, "a size, a height"),
        (torch.randn(1, 4, 9, 9), {"stride": (0, 1)}, "two numbers from 1 on"),
        (torch.randn(1, 4, 9, 9), {"padding": (0, 0, 0, -1)}, "padding four from 0 on"),
    ],
)
def test_what_does_not_fit_is_refused(x: Tensor, change: Any, words: str) -> None:
    window = Window(**{**vars(THREE), "padding": (9, 9, 1, 1), **change})
    with pytest.raises(KernelError, match=words):
        sparse_convolution(x, pack(sparse(20, 4, 3, 3).flatten(1)), window, 20)
    with pytest.raises(KernelError, match="the scale is"):
        sparse_convolution(torch.randn(1, 4, 9, 9), pack(torch.ones(20, 36)), THREE, 20, scale=torch.ones(19))
