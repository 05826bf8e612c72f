"""What the kernels compute, against float64: every instruction set, height, shape and tail; what is not a number, too."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sparsify.engine import library, pack, sparse_linear, unpack
from sparsify.engine.operator import ACTIVATIONS
from sparsify.engine.packed import HEIGHTS

BEST = 0 if library.missing() else library.INSTRUCTIONS[library.instructions()]
EACH = list(range(1, BEST + 1))
EPSILON = torch.finfo(torch.float32).eps


def sparse(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) < density
    return torch.randn(rows, columns, generator=generator) * kept


def relative_error(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The error of each output in units of Σ|w||x| (+ |bias|); zero where that is zero and so is the error."""
    exact = functional.linear(x.double(), weight.double(), bias.double())
    scale = functional.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    return (y.double() - exact).abs() / scale.clamp_min(torch.finfo(torch.float64).tiny)


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("instructions", EACH)
def test_errors_are_at_most_twice_those_of_a_dense_product(instructions: int, height: int) -> None:
    for (rows, columns), density in itertools.product(((48, 400), (70, 1030)), (0.05, 0.3, 1.0)):
        weight, bias = sparse(rows, columns, density), torch.randn(rows)
        packed = pack(weight, height)
        for tokens in (1, 5, 16, 70):
            x = torch.randn(tokens, columns)
            ours = relative_error(sparse_linear(x, packed, bias, rows, instructions=instructions), x, weight, bias)
            dense = relative_error(functional.linear(x, weight, bias), x, weight, bias)
            assert float(ours.max()) <= 2 * max(float(dense.max()), EPSILON)
            assert float(ours.mean()) <= 2 * max(float(dense.mean()), EPSILON / 8)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 420),
    tokens=st.integers(0, 140),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    height=st.sampled_from(HEIGHTS),
    instructions=st.sampled_from(EACH),
    biased=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_shape_is_computed_and_unpacks_to_itself(
    rows: int, columns: int, tokens: int, density: float, height: int, instructions: int, biased: bool, seed: int
) -> None:
    weight = sparse(rows, columns, density, seed)
    packed = pack(weight, height)
    assert torch.equal(unpack(packed), weight)
    generator = torch.Generator().manual_seed(seed)
    x, bias = torch.randn(tokens, columns, generator=generator), torch.randn(rows, generator=generator)
    y = sparse_linear(x, packed, bias if biased else None, rows, instructions=instructions)
    assert y.shape == (tokens, rows)
    if tokens:
        error = relative_error(y, x, weight, bias if biased else torch.zeros(rows))
        assert float(error.max()) <= columns**0.5 * 2 * EPSILON


@pytest.mark.parametrize("instructions", EACH)
def test_rows_without_weights_give_the_bias(instructions: int) -> None:
    weight = sparse(40, 100, 0.2)
    weight[::3] = 0
    weight[:, 64:] = 0
    bias = torch.randn(40)
    for height in HEIGHTS:
        y = sparse_linear(torch.randn(9, 100), pack(weight, height), bias, 40, instructions=instructions)
        assert torch.equal(y[:, ::3], bias[::3].expand(9, -1))
        zeros = sparse_linear(torch.randn(9, 100), pack(torch.zeros(40, 100), height), None, 40)
        assert torch.equal(zeros, torch.zeros(9, 40))


@pytest.mark.parametrize("instructions", EACH)
def test_huge_and_tiny_values(instructions: int) -> None:
    weight = sparse(20, 60, 0.3)
    for factor in (1e-38, 1e-20, 1e18):
        for height in HEIGHTS:
            x = torch.randn(5, 60) * 1e18
            scaled = weight * factor
            y = sparse_linear(x, pack(scaled, height), None, 20, instructions=instructions)
            assert float(relative_error(y, x, scaled, torch.zeros(20)).max()) <= 20 * EPSILON
    x = torch.full((1, 60), 3e38)
    y = sparse_linear(x, pack(weight.abs() * 10), None, 20, instructions=instructions)
    assert torch.equal(y.isinf(), functional.linear(x, weight.abs() * 10).isinf())


@pytest.mark.parametrize("instructions", EACH)
def test_what_is_not_a_number_goes_where_weights_are(instructions: int) -> None:
    weight = sparse(33, 70, 0.3).abs()
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.rand(20, 70)
        x[7, 11] = bad
        reached = weight[:, 11] != 0
        for height in HEIGHTS:
            y = sparse_linear(x, pack(weight, height), None, 33, instructions=instructions)
            others = torch.ones(20, dtype=torch.bool)
            others[7] = False
            assert y[others].isfinite().all(), "other tokens never see it"
            assert not y[7, reached].isfinite().any()
            if bad != bad:
                assert y[7, reached].isnan().all()
            if height == 1:
                assert y[7, ~reached].isfinite().all(), "a zero is skipped"
    broken = weight.clone()
    broken[3, 5] = float("nan")
    y = sparse_linear(torch.rand(4, 70), pack(broken), None, 33, instructions=instructions)
    assert y[:, 3].isnan().all()
    assert y[:, :3].isfinite().all()
    assert torch.equal(unpack(pack(broken)).isnan(), broken.isnan())


@pytest.mark.parametrize("instructions", EACH)
def test_activations_are_torchs(instructions: int) -> None:
    references = {
        "none": lambda x: x,
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
    }
    assert tuple(references) == ACTIVATIONS
    x = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])]).view(-1, 1)
    packed = pack(torch.ones(1, 1))
    for name, reference in references.items():
        y = sparse_linear(x, packed, None, 1, name, instructions)
        wanted = reference(x.double())
        assert float(((y - wanted).abs() / (1 + x.double().abs())).max()) <= 5e-7, name
        assert sparse_linear(torch.full((3, 1), float("nan")), packed, None, 1, name, instructions).isnan().all()


def test_numbers_are_the_same_every_time_and_for_any_number_of_threads() -> None:
    weight = sparse(700, 200, 0.1)
    x, before = torch.randn(150, 200), torch.get_num_threads()
    for height in HEIGHTS:
        packed = pack(weight, height)
        try:
            found = []
            for threads in (1, 2, 3, 7, 1):
                torch.set_num_threads(threads)
                found.append(sparse_linear(x, packed, None, 700))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(each, found[0]) for each in found)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    weight = sparse(64, 100, 0.2)
    x, packed = torch.randn(64, 100), pack(weight)
    whole = sparse_linear(x, packed, None, 64)
    assert torch.equal(sparse_linear(torch.cat([x[:32], 5 * x[32:]]), packed, None, 64)[:32], whole[:32])
