"""Selection against its slow, obvious reference: a stable sort of everything (SPEC C)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsify import ScoreError
from sparsify.masking import Contender, budget, pieces, select
from sparsify.masking.rows import select_in_rows
from sparsify.masking.scorer import check_scores
from tests.drawn import examples

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def reference(scores: list[Tensor], sizes: list[int], elements: int) -> list[Tensor]:
    """Sort all groups by (score, index); prune the shortest prefix whose elements reach the budget."""
    everything = torch.cat([score.double() for score in scores])
    size = torch.cat([torch.full((len(score),), size) for score, size in zip(scores, sizes, strict=True)])
    order = everything.sort(stable=True).indices
    before = size[order].cumsum(0) - size[order]
    mask = torch.ones(len(everything), dtype=torch.bool)
    mask[order[before < elements]] = False
    return list(mask.split([len(score) for score in scores]))


def check(scores: list[Tensor], sizes: list[int], elements: int) -> list[Tensor]:
    """Select, compare with the reference bit by bit, and return the masks."""
    contenders = [Contender.of(f"t{i}", s, size) for i, (s, size) in enumerate(zip(scores, sizes, strict=True))]
    masks = select(contenders, elements)
    for mine, wanted in zip(masks, reference(scores, sizes, elements), strict=True):
        assert torch.equal(mine, wanted)
    return masks


@st.composite
def arenas(draw: st.DrawFn) -> tuple[list[Tensor], list[int], float]:
    """Draw tensors of scores, sizes of their groups, and a sparsity; often with ties, also all equal."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = draw(st.integers(1, 4))
    same = draw(st.booleans())
    scores, sizes = [], []
    for _ in range(count):
        length = draw(st.sampled_from([0, 1, 2, 7, 40, 131, 300]))
        score = torch.randn(length, generator=generator)
        kind = draw(st.sampled_from(["plain", "ties", "zeros", "mostly zeros", "huge", "tiny"]))
        if kind == "ties":
            score = (score * 2).round()
        elif kind == "zeros":
            score = score * 0
        elif kind == "mostly zeros":
            score = score * (score > 1)
        elif kind == "huge":
            score = score * 1e4
        elif kind == "tiny":
            score = score * 1e-7
        scores.append(score.to(draw(st.sampled_from(DTYPES))))
        sizes.append(sizes[0] if same and sizes else draw(st.sampled_from([1, 4, 6])))
    return scores, sizes, draw(st.floats(0, 1))


@given(arenas())
@examples(400)
def test_equals_the_reference_bit_by_bit(arena: tuple[list[Tensor], list[int], float]) -> None:
    scores, sizes, sparsity = arena
    total = sum(len(s) * size for s, size in zip(scores, sizes, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "CHUNK", {"cpu": 56})
        patch.setattr(pieces, "SMALL", 12)
        patch.setattr(pieces, "SAMPLE", 24)
        for elements in {budget(sparsity, total), 0, 1, total - 1, total}:
            check(scores, sizes, elements)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0.001, 0.5, 0.9, 0.999])
def test_equals_the_reference_at_full_size(dtype: torch.dtype, sparsity: float) -> None:
    scores = [torch.randn(300_000).to(dtype), torch.randn(100_001).abs().to(dtype), torch.zeros(50_000, dtype=dtype)]
    check(scores, [1, 1, 1], budget(sparsity, 450_001))


def test_a_structured_tensor_that_misleads_the_sample() -> None:
    scores = torch.zeros(400_000)
    scores[::3] = torch.arange(len(scores[::3])).float()
    check([scores], [1], 200_000)
    check([scores.view(1000, 400).t().reshape(-1)], [1], 390_000)


@pytest.mark.usefixtures("tiny_chunks")
def test_overshoot_is_less_than_one_group_and_masks_nest() -> None:
    scores, sizes = [torch.randn(60), torch.randn(45)], [4, 6]
    before = None
    for elements in range(0, 60 * 4 + 45 * 6 + 1, 7):
        masks = check(scores, sizes, elements)
        pruned = sum(int((~m).sum()) * size for m, size in zip(masks, sizes, strict=True))
        assert elements <= pruned < elements + 6
        if before is not None:
            assert all(bool((~new | old).all()) for new, old in zip(masks, before, strict=True))
        before = masks


def test_negative_zero_ties_with_zero() -> None:
    (mask,) = check([torch.tensor([0.0, -0.0, 0.0, -0.0])], [1], 2)
    assert mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("length", [10, 200_000])
def test_scores_that_cannot_be_ranked_name_the_tensor(bad: float, length: int) -> None:
    scores = torch.randn(length)
    scores[length // 2] = bad
    with pytest.raises(ScoreError, match=r"encoder\.query\.weight: the scores hold (NaN|infinite) values"):
        select([Contender.of("encoder.query.weight", scores)], length // 2)


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, -math.inf], [3e38, 3e38, math.nan]])
def test_what_cannot_be_ranked_is_seen_whatever_the_others_are(bad: list[float]) -> None:
    with pytest.raises(ScoreError, match="the scores hold"):
        check_scores("it", torch.tensor(bad))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_are_ranked_though_their_sum_is_not_finite(dtype: torch.dtype) -> None:
    scores = torch.linspace(0.5, 1, 1000, dtype=torch.float64).mul(torch.finfo(dtype).max).to(dtype)
    assert scores.sum().isinf()
    check([scores], [1], 300)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("length", [10, 200_000])
def test_of_several_tensors_the_one_with_bad_scores_is_named(bad: float, length: int) -> None:
    scores = {name: torch.randn(length) for name in ("first", "second", "third")}
    scores["second"][0] = bad
    with pytest.raises(ScoreError, match="second: the scores hold"):
        select([Contender.of(name, each) for name, each in scores.items()], length)


@pytest.mark.parametrize(
    ("sparsity", "elements", "pruned"),
    [(0.29, 100, 29), (0.5, 5, 2), (0.5, 7, 4), (0.9, 1000, 900), (0, 9, 0), (1, 9, 9)],
)
def test_the_budget_is_rounded_half_to_even(sparsity: float, elements: int, pruned: int) -> None:
    assert budget(sparsity, elements) == pruned


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("ties", [False, True])
def test_groups_of_many_sizes(ties: bool) -> None:
    torch.manual_seed(0)
    scores = [torch.randn(97), torch.randn(160)]
    if ties:
        scores = [(score * 2).round() for score in scores]
    sizes = [torch.randint(1, 9, (97,)), torch.full((160,), 5)]
    contenders = [
        Contender.of("a", scores[0], 8, sizes=sizes[0]),
        Contender.of("b", scores[1], 5),
    ]
    order = torch.cat(scores).sort(stable=True).indices
    each = torch.cat(sizes)
    before = each[order].cumsum(0) - each[order]
    for elements in range(0, int(each.sum()) + 1, 13):
        wanted = torch.ones(257, dtype=torch.bool)
        wanted[order[before < elements]] = False
        assert torch.equal(torch.cat(select(contenders, elements)), wanted)


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 40), st.booleans())
@examples(150)
def test_rows_are_selected_like_arenas(seed: int, rows: int, columns: int, ties: bool) -> None:
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if ties:
        scores = scores.round()
    for groups in {0, 1, columns // 2, columns - 1, columns}:
        mask = select_in_rows(scores, groups)
        for row, mine in zip(scores, mask, strict=True):
            assert torch.equal(mine, reference([row], [1], groups)[0])


@given(st.integers(0, 2**31), st.integers(1, 7), st.sampled_from([8, 16, 24, 40, 2048, 2056, 4096, 9]), st.floats(0, 1))
@examples(150)
def test_rows_that_were_pruned_before_are_selected_like_arenas(seed: int, rows: int, width: int, part: float) -> None:
    """Crowds of zeros, with a few more to take, with fewer, with ties above, with guarded and with first ones."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(rows, width, generator=generator)
    zeros = int(part * width)
    scores[:, torch.randperm(width, generator=generator)[:zeros]] = 0
    scores[0] = (scores[0] * 3).round()
    scores[-1, : width // 4] = math.inf
    scores[rows // 2, : width // 3] = -math.inf
    for groups in {0, 1, zeros - 3, zeros, zeros + 1, zeros + 4, zeros + 5, width // 2, width - 1, width}:
        if 0 <= groups <= width:
            for dtype in (torch.float32, torch.bfloat16):
                mask = select_in_rows(scores.to(dtype), groups)
                order = scores.to(dtype).double().sort(dim=1, stable=True).indices
                wanted = torch.ones(rows, width, dtype=torch.bool).scatter(1, order[:, :groups], False)
                assert torch.equal(mask, wanted)
