"""What a weight is worth."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal
from zlib import crc32

import pytest
import torch
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.criteria.base import Place
from sparsify.criteria.random import Random
from tests.competing import TENSORS, compete


def test_random_is_uniform_seeded_and_the_same_everywhere() -> None:
    tensor = torch.ones(200, 500)
    masks = [compete({"w": tensor}, 0.3, {"type": "random", "seed": seed})["w"] for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    agree = float((masks[0] == masks[2]).float().mean())
    assert agree == pytest.approx(0.3**2 + 0.7**2, abs=0.01)
    assert int((~masks[0]).sum()) == 30_000
    per_row = (~masks[0]).float().mean(1)
    assert float(per_row.std()) == pytest.approx(math.sqrt(0.3 * 0.7 / 500), rel=0.2)
    other = compete({"v": tensor}, 0.3, "random")["v"]
    assert float((other == masks[0]).float().mean()) == pytest.approx(0.58, abs=0.01)


def test_random_scores_equal_integer_arithmetic() -> None:
    """So that any machine, device and torch draws the same mask."""

    def mixed(number: int) -> int:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            number = ((number ^ (number >> shift)) * factor) % 2**32
        return number ^ (number >> 16)

    key = crc32(b"7/layer.weight")
    indices = [3 + 5 * row * 4 + column for row in range(6) for column in range(4)]
    wanted = [((mixed((mixed(i) + key) % 2**32) >> 8) + 1) / 2**24 for i in indices]
    scores = Random(seed=7).score(torch.ones(6, 4), Place("layer.weight", 3, stride=5))
    assert scores.flatten().tolist() == wanted


def test_random_prunes_what_is_zero_first() -> None:
    tensor = torch.randn(40, 40)
    tensor[:, :10] = 0
    mask = compete({"w": tensor}, 0.25, "random")["w"]
    assert not mask[:, :10].any()
    assert mask[:, 10:].all()


@pytest.fixture
def row_share(monkeypatch: pytest.MonkeyPatch) -> type[Criterion]:
    """A criterion that looks at whole rows, as a plug-in could bring one; gone after the test."""
    monkeypatch.setattr(Criterion, "_members", dict(Criterion.members()))

    class RowShare(Criterion):
        type: Literal["row-share"] = "row-share"
        whole_rows: ClassVar[bool] = True

        def score(self, weight: Tensor, place: Place) -> Tensor:
            assert weight.dim() == 2
            return weight.abs() / weight.abs().amax(dim=1, keepdim=True).clamp_min(1)

    return RowShare


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("pattern", ["unstructured", "1:2", {"type": "block", "shape": [2, 2]}, "row", "column"])
@pytest.mark.parametrize("scope", ["tensor", "global", "row"])
@pytest.mark.usefixtures("tiny_chunks", "row_share")
def test_a_criterion_may_look_at_whole_rows(kind: str, pattern: Any, scope: str) -> None:
    """It gives the mask that magnitude gives on tensors whose rows were divided beforehand."""
    if scope == "row" and pattern in ("row", "column"):
        pattern = "unstructured"
    torch.manual_seed(0)
    tensors = TENSORS[kind]()
    divided = {
        name: t / t.abs().flatten(1).amax(1).clamp_min(1).view(-1, *[1] * (t.dim() - 1)) for name, t in tensors.items()
    }
    for sparsity in (0.2, 0.45):
        mine = compete(tensors, sparsity, "row-share", pattern, scope)
        wanted = compete(divided, sparsity, "magnitude", pattern, scope)
        assert all(torch.equal(mine[name], wanted[name]) for name in tensors)


@pytest.mark.usefixtures("row_share")
def test_whole_rows_at_full_size() -> None:
    tensor = torch.randn(300, 3000) * torch.rand(300, 1) * 5
    divided = tensor / tensor.abs().amax(1, keepdim=True).clamp_min(1)
    for pattern in ("unstructured", "2:4"):
        mine = compete({"w": tensor}, 0.4, "row-share", pattern)["w"]
        assert torch.equal(mine, compete({"w": divided}, 0.4, "magnitude", pattern)["w"])
