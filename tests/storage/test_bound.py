"""The bound by its formula, and files against it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from sparsify.storage import bound, pack
from sparsify.storage.planes import bits_of

EXPONENTS = {torch.float32: (8, 23), torch.bfloat16: (8, 7), torch.float16: (5, 10), torch.float64: (11, 52)}


def obvious(tensor: torch.Tensor) -> float:
    """Return bytes by the definition, number by number."""
    width, mantissa = EXPONENTS[tensor.dtype]
    patterns = [int(bits) for bits in bits_of(tensor) if int(bits)]
    n, k = tensor.numel(), len(patterns)
    exponents = Counter((bits >> mantissa) & ((1 << width) - 1) for bits in patterns)

    def entropy(counts: list[int]) -> float:
        return sum(c * math.log2(sum(counts) / c) for c in counts if c)

    return (entropy([k, n - k]) + entropy(list(exponents.values())) + k * (1 + mantissa)) / 8


@pytest.mark.parametrize("dtype", EXPONENTS, ids=str)
def test_the_bound_is_the_order_0_entropy(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(40, 50).to(dtype)
    tensor[torch.rand(40, 50) < 0.8] = 0
    bits = bits_of(tensor)
    found = bound.of_positions(bits.size, int((bits != 0).sum())) + bound.of_floats(
        bits[bits != 0], str(dtype).removeprefix("torch.")
    )
    assert found == pytest.approx(obvious(tensor))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 3.0), (torch.bfloat16, 1.4)], ids=str)
def test_files_are_as_small_as_promised(dtype: torch.dtype, most: float, tmp_path: Path) -> None:
    """Gaussian weights pruned by magnitude: at 90 % the bits a weight, everywhere the ratio to the bound, headers too."""
    torch.manual_seed(0)
    for sparsity in (0.8, 0.9, 0.97):
        tensors = {}
        for number in range(4):
            weight = torch.randn(512, 768) * (0.03 + 0.01 * number)
            threshold = weight.abs().flatten().kthvalue(int(sparsity * weight.numel())).values
            tensors[f"layer.{number}.weight"] = torch.where(weight.abs() > threshold, weight, 0.0).to(dtype)
        summary = pack(tensors, tmp_path / "packed")
        assert summary.ratio <= 1.02, sparsity
        assert summary.bytes == (tmp_path / "packed").stat().st_size
        if sparsity == 0.9:
            assert 8 * summary.bytes / summary.total.elements <= most
