"""Sums of products over tiles, by dot products where that is faster, against adding them up one by one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from sparsify.layers import weights
from sparsify.masking import groups
from sparsify.masking.groups import products
from sparsify.patterns.bundle import Part, Tile


def reference(part: Part, one: Tensor, other: Tensor) -> Tensor:
    """Add up the products of every tile, one tile after the other."""
    cube = part.weight.cube(one * other)
    height, depth, width = part.tile
    places = itertools.product(*(range(count) for count in part.grid))
    return torch.stack(
        [
            cube[r * height : (r + 1) * height, t * depth : (t + 1) * depth, c * width : (c + 1) * width].sum()
            for r, t, c in places
        ]
    )


@pytest.mark.parametrize(
    ("module", "tile"),
    [
        (nn.Linear(96, 64), (32, 1, 32)),
        (nn.Linear(96, 64), (4, 1, 48)),
        (nn.Linear(96, 64), (1, 1, 96)),
        (nn.Linear(96, 64), (64, 1, 1)),
        (nn.Linear(96, 64), (16, 1, 4)),
        (nn.Linear(80, 50), (32, 1, 32)),
        (nn.Linear(72, 8), (3, 1, 24)),
        (nn.Conv2d(16, 8, 3), (2, 1, 16)),
        (nn.Conv1d(16, 8, 1), (4, 1, 8)),
    ],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else type(value).__name__,
)
@pytest.mark.parametrize("strided", [False, True])
def test_sums_of_products(module: nn.Module, tile: Tile, strided: bool) -> None:
    (weight,) = weights("w", module)
    part = Part(weight, tile)
    torch.manual_seed(0)
    one, other = torch.randn(2, *weight.shape, dtype=torch.float64)
    if strided:
        one = one.transpose(0, 1).contiguous().transpose(0, 1)
    found = products(part, one, other, torch.float64)
    assert found.shape == (part.grid[0] * part.grid[1] * part.grid[2],)
    torch.testing.assert_close(found, reference(part, one, other), rtol=1e-12, atol=1e-12)


def test_blocks_take_the_fast_path_and_half_precision_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (weight,) = weights("w", nn.Linear(64, 64))
    part, called = Part(weight, (32, 1, 32)), []
    one_by_one = groups.reduced
    monkeypatch.setattr(groups, "reduced", lambda *given: called.append(given) or one_by_one(*given))
    one, other = torch.randn(2, 64, 64)
    products(part, one, other, torch.float32)
    assert not called
    halves = one.bfloat16(), other.bfloat16()
    found = products(part, *halves, torch.float32)
    assert called
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference(part, halves[0].float(), halves[1].float()))
