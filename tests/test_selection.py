"""Selection against its slow, obvious reference: a stable sort of everything (SPEC C)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsify import ScoreError
from sparsify.criteria import Criterion
from sparsify.masking import Contender, budget, mask_tensors, select, selection
from sparsify.patterns import Pattern
from sparsify.scopes import Scope

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


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force every path of the fast code on small inputs: brackets, misses, crowds, many chunks."""
    monkeypatch.setattr(selection, "CHUNK", {"cpu": 56})
    monkeypatch.setattr(selection, "SMALL", 12)
    monkeypatch.setattr(selection, "SAMPLE", 24)


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
@settings(max_examples=400, deadline=None)
def test_equals_the_reference_bit_by_bit(arena: tuple[list[Tensor], list[int], float]) -> None:
    scores, sizes, sparsity = arena
    total = sum(len(s) * size for s, size in zip(scores, sizes, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "CHUNK", {"cpu": 56})
        patch.setattr(selection, "SMALL", 12)
        patch.setattr(selection, "SAMPLE", 24)
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


@pytest.mark.parametrize(
    ("sparsity", "elements", "pruned"),
    [(0.29, 100, 29), (0.5, 5, 2), (0.5, 7, 4), (0.9, 1000, 900), (0, 9, 0), (1, 9, 9)],
)
def test_the_budget_is_rounded_half_to_even(sparsity: float, elements: int, pruned: int) -> None:
    assert budget(sparsity, elements) == pruned


# ---------------------------------------------------------------- criterion × pattern × scope on matrices


def slow_groups(scores: Tensor, pattern: Pattern) -> Tensor:
    """Score every tile by loops over its weights."""
    rows, columns = pattern.tile(*scores.shape)
    how = getattr(pattern, "reduce_by", "mean")
    out = torch.zeros(scores.shape[0] // rows, scores.shape[1] // columns, dtype=torch.float64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            tile = scores[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].double().flatten()
            values = {"mean": tile.mean(), "sum": tile.sum(), "max": tile.max(), "l2": tile.norm()}
            out[i, j] = values[how]
    return out


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("how", ["mean", "sum", "max", "l2"])
@pytest.mark.parametrize("tile", [[4, 1], [1, 4], [2, 2], [8, 16], "row", "column"])
def test_groups_are_true_tiles(tile: Any, how: str, scope: str) -> None:
    pattern = Pattern.parse({"type": tile} if isinstance(tile, str) else {"type": "block", "shape": tile})
    pattern = pattern.model_copy(update={"reduce_by": how})
    matrices = {"a": torch.randint(-9, 9, (16, 32)).double(), "b": torch.randint(-9, 9, (32, 16)).double()}
    masks = mask_tensors(matrices, Criterion.parse("magnitude"), pattern, Scope.parse(scope), lambda names: 0.4)
    grouped = {name: slow_groups(matrix.abs(), pattern) for name, matrix in matrices.items()}
    arenas = [["a", "b"]] if scope == "global" else [["a"], ["b"]]
    for arena in arenas:
        wanted = reference(
            [grouped[name].flatten().float() for name in arena],
            [pattern.size(*matrices[name].shape) for name in arena],
            budget(0.4, sum(matrices[name].numel() for name in arena)),
        )
        for name, flat in zip(arena, wanted, strict=True):
            rows, columns = pattern.tile(*matrices[name].shape)
            full = flat.view(grouped[name].shape).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            assert torch.equal(masks[name], full)


def slow_n_m(matrix: Tensor, n: int, m: int, pruned: int) -> Tensor:
    """Protect the top n of every m (later ones win ties), then prune the lowest of the rest."""
    flat = matrix.abs().flatten()
    order = sorted(range(len(flat)), key=lambda i: (float(flat[i]), i))
    protected = set()
    for start in range(0, len(flat), m):
        group = [i for i in order if start <= i < start + m]
        protected |= set(group[-n:])
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[[i for i in order if i not in protected][:pruned]] = False
    return mask.view(matrix.shape)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8), (1, 16), (5, 8)])
@pytest.mark.parametrize("ties", [False, True])
def test_n_m_is_gradual_and_ends_exact(n: int, m: int, ties: bool) -> None:
    matrix = torch.randn(12, 48)
    if ties:
        matrix = matrix.round()
    pattern = Pattern.parse(f"{n}:{m}")
    most = 1 - n / m
    for part in (0, 0.3, 0.77, 1):
        wanted = slow_n_m(matrix, n, m, budget(part * most, matrix.numel()))
        for scope in ("tensor", "global"):
            masks = mask_tensors(
                {"w": matrix}, Criterion.parse("magnitude"), pattern, Scope.parse(scope), lambda names, s=part * most: s
            )
            assert torch.equal(masks["w"], wanted)
    assert torch.equal(wanted.view(-1, m).sum(1), torch.full((matrix.numel() // m,), n))


@pytest.mark.usefixtures("tiny_chunks")
def test_n_m_across_tensors_and_chunks() -> None:
    matrices = {"a": torch.randn(10, 24), "b": torch.randn(6, 16) * 3}
    masks = mask_tensors(
        matrices, Criterion.parse("magnitude"), Pattern.parse("2:4"), Scope.parse("global"), lambda names: 0.3
    )
    together = torch.cat([matrix.flatten() for matrix in matrices.values()]).view(1, -1)
    wanted = slow_n_m(together, 2, 4, budget(0.3, together.numel())).flatten()
    assert torch.equal(torch.cat([masks["a"].flatten(), masks["b"].flatten()]), wanted)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", {"type": "block", "shape": [4, 2]}])
def test_non_contiguous_matrices_give_the_same_mask(pattern: object) -> None:
    base = torch.randn(64, 48)
    arguments = (Criterion.parse("magnitude"), Pattern.parse(pattern), Scope.parse("tensor"), lambda names: 0.4)
    wanted = mask_tensors({"w": base}, *arguments)["w"]
    for view in (base.t().contiguous().t(), torch.cat([base, base], 1)[:, :48], base.repeat(2, 1)[:64]):
        assert torch.equal(mask_tensors({"w": view}, *arguments)["w"], wanted)


def test_n_m_refuses_infinite_weights() -> None:
    matrix = torch.randn(8, 8)
    matrix[3, 3] = math.inf
    with pytest.raises(ScoreError, match="w: the scores hold"):
        mask_tensors(
            {"w": matrix}, Criterion.parse("magnitude"), Pattern.parse("2:4"), Scope.parse("tensor"), lambda names: 0.3
        )
