"""Patterns whose groups are no rectangles, against slow and obvious references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsify import PlanError
from sparsify.masking import budget, pieces
from sparsify.masking.groups import products
from sparsify.patterns.bundle import Bundle, Part
from tests.competing import compete, weight_of
from tests.examples import Corner, Diagonal

SHAPES = [(6, 6), (5, 9), (9, 4), (4, 3, 2), (3, 2, 2, 2), (1, 1)]


def slow(tensor: Tensor, index: Tensor, how: str, sparsity: float) -> Tensor:
    """Prune the groups with the lowest scores, one by one, until the budget is reached; [rows, taps × columns]."""
    flat, index = tensor.double().abs().flatten(), index.flatten()
    members = [(index == group).nonzero().flatten() for group in range(int(index.max()) + 1)]
    reduce = {"mean": Tensor.mean, "sum": Tensor.sum, "max": Tensor.max, "l2": Tensor.norm}[how]
    scores = [float(reduce(flat[places]).float()) for places in members]
    mask, left = torch.ones(flat.numel(), dtype=torch.bool), budget(sparsity, flat.numel())
    for group in sorted(range(len(members)), key=lambda group: scores[group]):
        if left <= 0:
            break
        mask[members[group]] = False
        left -= len(members[group])
    return mask.view(tensor.shape)


@pytest.mark.parametrize("piece", [7, 1 << 20])
@pytest.mark.parametrize("how", ["mean", "sum", "max", "l2"])
@pytest.mark.parametrize("kind", [Diagonal, Corner])
def test_groups_are_what_the_map_says(kind: Any, how: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", piece)
    pattern = kind(**{"reduce": how})
    for shape in SHAPES:
        tensor = torch.randint(-5, 6, shape).float()
        weight = weight_of("w", tensor)
        cube = weight.cube(tensor)
        for sparsity in (0.0, 0.3, 0.7, 1.0):
            mask = compete({"w": tensor}, sparsity, pattern=pattern)["w"]
            wanted = slow(cube, pattern.groups(weight), how, sparsity)
            assert torch.equal(weight.cube(mask), wanted)


def test_sizes_are_exact() -> None:
    weight = weight_of("w", torch.randn(4, 6))
    corner, diagonal = (kind().bundle(weight) for kind in (Corner, Diagonal))
    assert (corner.count, corner.size, corner.elements, corner.single) == (6, 7, 24, False)
    assert corner.sizes is not None
    assert corner.sizes.tolist() == [1, 3, 5, 7, 4, 4]
    assert (diagonal.count, diagonal.size, diagonal.sizes) == (6, 4, None)
    alone = Bundle("w", (Part.mapped(weight, torch.arange(24).view(4, 1, 6)),))
    assert (alone.count, alone.size, alone.single) == (24, 1, False)


def test_products_of_learned_scores_follow_the_map() -> None:
    weight = weight_of("w", torch.randn(4, 6))
    gradient = torch.randn(4, 6)
    part = Corner().bundle(weight).parts[0]
    assert part.index is not None
    wanted = torch.zeros(6).index_add(0, part.index.flatten(), (gradient * weight.tensor).flatten())
    assert torch.allclose(products(part, gradient, weight.tensor, torch.float32), wanted)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (torch.zeros(4, 6, dtype=torch.int64), r"int64 \[4, 1, 6\], and is torch\.int64 \[4, 6\]"),
        (torch.zeros(4, 1, 6), r"int64 \[4, 1, 6\], and is torch\.float32"),
        ([[0]], "and is list"),
        (None, "and is NoneType"),
        (torch.full((4, 1, 6), -1), "numbered from 0, and the map has -1"),
        (torch.full((4, 1, 6), 2), "group 0 has none"),
        (torch.full((4, 1, 6), 10**15), "has group 1000000000000000, and only 24 weights"),
    ],
)
def test_wrong_maps_are_refused(index: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=rf"model\.w: .*{sentence}"):
        Part.mapped(weight_of("model.w", torch.randn(4, 6)), index)
