"""Criterion × pattern × scope on tensors, against slow and obvious references (SPEC C)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsify import ScoreError
from sparsify.criteria import Criterion
from sparsify.masking import Competition, budget
from sparsify.patterns import Pattern
from sparsify.scopes import Scope
from tests.competing import TENSORS, compete, weight_of, whole
from tests.drawn import examples

Group = list[tuple[str, int, int, int]]
"""(tensor, row, tap, column) of every weight."""


def cube(tensor: Tensor) -> Tensor:
    """Return a tensor as [rows, taps, columns], by loops over nothing but dimensions."""
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor.flatten(2).permute(0, 2, 1)


def groups(name: str, tensor: Tensor, rows: int, taps: int, columns: int) -> Iterator[Group]:
    """Yield the tiles of a tensor, in order, those at the edges cut off."""
    height, depth, width = cube(tensor).shape
    for r, t, c in product(range(0, height, rows), range(0, depth, taps), range(0, width, columns)):
        ends = (min(r + rows, height), min(t + taps, depth), min(c + columns, width))
        yield [(name, i, j, k) for i in range(r, ends[0]) for j in range(t, ends[1]) for k in range(c, ends[2])]


def slow(tensors: dict[str, Tensor], arenas: list[list[Group]], how: str, sparsity: float) -> dict[str, Tensor]:
    """Sort the groups of every arena by (score, index); prune the shortest prefix that reaches its budget."""
    cubes = {name: cube(tensor.double().abs()) for name, tensor in tensors.items()}
    masks = {name: torch.ones_like(c, dtype=torch.bool) for name, c in cubes.items()}

    def score(group: Group) -> float:
        values = torch.stack([cubes[name][i, j, k] for name, i, j, k in group])
        return float({"mean": values.mean(), "sum": values.sum(), "max": values.max(), "l2": values.norm()}[how])

    for arena in arenas:
        left = budget(sparsity, sum(map(len, arena)))
        for group in sorted(arena, key=score):  # a stable sort
            if left <= 0:
                break
            left -= len(group)
            for name, i, j, k in group:
                masks[name][i, j, k] = False
    return {
        name: mask.squeeze(1) if tensors[name].dim() == 2 else mask.permute(0, 2, 1).reshape(tensors[name].shape)
        for name, mask in masks.items()
    }


TILES: dict[str, Any] = {
    "unstructured": lambda t, c: (1, 1, 1),
    "row": lambda t, c: (1, t, c),
    "column": lambda t, c: (10**6, t, 1),
}


@st.composite
def tensors_and_blocks(draw: st.DrawFn) -> tuple[dict[str, Tensor], list[int], str, float]:
    """Draw tensors of any kind, dtype and stride with many ties, the shape of blocks, a reduction, a sparsity."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors = {}
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    for name in "abc"[: draw(st.integers(1, 3))]:
        shape = draw(st.lists(st.integers(1, 7), min_size=2, max_size=4))
        tensor = torch.randint(-4, 5, shape, generator=generator).to(dtype)
        tensors[name] = tensor.transpose(0, 1) if draw(st.booleans()) else tensor
    sides = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    return tensors, sides, draw(st.sampled_from(["mean", "sum", "max"])), draw(st.floats(0, 1))


@given(tensors_and_blocks(), st.sampled_from(["global", "tensor"]))
@examples(150)
def test_any_shape_dtype_and_tie_is_as_the_reference(
    case: tuple[dict[str, Tensor], list[int], str, float], scope: str
) -> None:
    tensors, sides, how, sparsity = case
    single = sides == [1, 1]
    pattern = "unstructured" if single else {"type": "block", "shape": sides, "ragged": "pad", "reduce": how}
    tiles = {name: list(groups(name, tensor, sides[0], 1, sides[1])) for name, tensor in tensors.items()}
    arenas = [[g for own in tiles.values() for g in own]] if scope == "global" else list(tiles.values())
    masks = compete(tensors, sparsity, pattern=pattern, scope=scope)
    for name, wanted in slow(tensors, arenas, "max" if single else how, sparsity).items():
        assert torch.equal(masks[name], wanted)


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("how", ["mean", "sum", "max", "l2"])
@pytest.mark.parametrize("pattern", [*TILES, (4, 1), (1, 4), (2, 2), (5, 3), (8, 16)])
@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.usefixtures("tiny_chunks")
def test_groups_are_true_tiles(kind: str, pattern: Any, how: str, scope: str) -> None:
    torch.manual_seed(0)
    tensors = TENSORS[kind]()
    spec: dict[str, Any] = {"type": pattern}
    if isinstance(pattern, tuple):
        spec = {"type": "block", "shape": list(pattern), "ragged": "pad"}
    if pattern == "unstructured":
        how = "mean"
    else:
        spec["reduce"] = how
    tiles = {}
    for name, tensor in tensors.items():
        shape = cube(tensor).shape[1:]
        tile = (pattern[0], 1, pattern[1]) if isinstance(pattern, tuple) else TILES[pattern](*shape)
        tiles[name] = list(groups(name, tensor, *tile))
    arenas = [[g for own in tiles.values() for g in own]] if scope == "global" else list(tiles.values())
    for sparsity in (0.4, 0.83):
        masks = compete(tensors, sparsity, pattern=spec, scope=scope)
        for name, wanted in slow(tensors, arenas, how, sparsity).items():
            assert torch.equal(masks[name], wanted)


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("pattern", ["unstructured", {"type": "block", "shape": [2, 2]}])
@pytest.mark.usefixtures("tiny_chunks")
def test_the_row_scope_ranks_rows_of_groups(kind: str, pattern: Any) -> None:
    torch.manual_seed(0)
    tensors = TENSORS[kind]()
    side = 1 if pattern == "unstructured" else 2
    arenas = []
    for name, tensor in tensors.items():
        rows: dict[int, list[Group]] = {}
        for group in groups(name, tensor, side, 1, side):
            rows.setdefault(group[0][1], []).append(group)
        arenas += list(rows.values())
    masks = compete(tensors, 0.6, pattern=pattern, scope="row")
    for name, wanted in slow(tensors, arenas, "mean", 0.6).items():
        assert torch.equal(masks[name], wanted)


def test_channels_of_grouped_and_depthwise_convolutions() -> None:
    torch.manual_seed(0)
    grouped = weight_of("w", whole(8, 3, 3, 3))
    grouped.module.groups = 2

    def masks(pattern: str, weight: Any, sparsity: float) -> Tensor:
        axes = Criterion.parse("magnitude"), Pattern.parse(pattern), Scope.parse("tensor")
        bundles, _ = axes[1].bundles([weight], None)
        return Competition.of(bundles, *axes).masks(lambda arena: sparsity)["w"]

    scores = grouped.parameter.abs().view(2, 4, 3, 9).mean(dim=(1, 3))  # [groups, channels]
    lowest = scores.flatten().argsort(stable=True)[:3]
    mask = masks("channel", grouped, 0.5).view(2, 4, 3, 9)
    for channel in range(6):
        expected = channel not in lowest.tolist()
        assert bool((mask[channel // 3, :, channel % 3] == expected).all())
    depthwise = weight_of("w", whole(8, 1, 3))
    depthwise.module.groups = 8
    for pattern in ("channel", "filter"):
        mask = masks(pattern, depthwise, 0.25).view(8, 3)
        assert mask.all(1).sum() == 6
        assert (~mask).all(1).sum() == 2


def slow_n_m(tensor: Tensor, n: int, m: int, pruned: int) -> Tensor:
    """Protect the top n of every m inputs (later ones win ties), then prune the lowest of the rest."""
    flat = cube(tensor).abs().flatten()
    order = sorted(range(len(flat)), key=lambda i: (float(flat[i]), i))
    protected = set()
    for start in range(0, len(flat), m):
        group = [i for i in order if start <= i < start + m]
        protected |= set(group[-n:])
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[[i for i in order if i not in protected][:pruned]] = False
    mask = mask.view(cube(tensor).shape)
    return mask.squeeze(1) if tensor.dim() == 2 else mask.permute(0, 2, 1).reshape(tensor.shape)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8), (1, 16), (5, 8)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(12, 48), (4, 16, 3), (3, 16, 2, 2)])
def test_n_m_is_gradual_and_ends_exact(shape: tuple[int, ...], n: int, m: int, ties: bool) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(shape)
    if ties:
        tensor = tensor.round()
    most = 1 - n / m
    for part in (0, 0.3, 0.77, 1):
        wanted = slow_n_m(tensor, n, m, budget(part * most, tensor.numel()))
        for scope in ("tensor", "global"):
            masks = compete({"w": tensor}, part * most, pattern=f"{n}:{m}", scope=scope)
            assert torch.equal(masks["w"], wanted)
    ends = compete({"w": tensor}, most, pattern=f"{n}:{m}", scope="row")["w"]
    for mask in (wanted, ends):
        assert torch.equal(cube(mask).reshape(-1, m).sum(1), torch.full((tensor.numel() // m,), n))


@pytest.mark.usefixtures("tiny_chunks")
def test_n_m_across_tensors_and_chunks() -> None:
    tensors = {"a": torch.randn(10, 24), "b": torch.randn(6, 16) * 3}
    masks = compete(tensors, 0.3, pattern="2:4", scope="global")
    together = torch.cat([tensor.flatten() for tensor in tensors.values()]).view(1, -1)
    wanted = slow_n_m(together, 2, 4, budget(0.3, together.numel())).flatten()
    assert torch.equal(torch.cat([masks["a"].flatten(), masks["b"].flatten()]), wanted)


PATTERNS = ["unstructured", "2:4", {"type": "block", "shape": [4, 2]}, "row", "column"]


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_non_contiguous_tensors_give_the_same_mask(pattern: object, criterion: str) -> None:
    base = torch.randn(64, 48)
    wanted = compete({"w": base}, 0.4, criterion, pattern)["w"]
    for view in (base.t().contiguous().t(), torch.cat([base, base], 1)[:, :48], base.repeat(2, 1)[:64]):
        assert torch.equal(compete({"w": view}, 0.4, criterion, pattern)["w"], wanted)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_channels_last_gives_the_same_mask(pattern: object) -> None:
    base = torch.randn(16, 8, 3, 3)
    last = base.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    for scope in ("tensor", "row") if pattern not in ("row", "column") else ("tensor",):
        wanted = compete({"w": base}, 0.4, pattern=pattern, scope=scope)["w"]
        assert torch.equal(compete({"w": last}, 0.4, pattern=pattern, scope=scope)["w"], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_every_dtype_is_exact(dtype: torch.dtype, pattern: Any, criterion: str) -> None:
    tensor = torch.randn(64, 48).to(dtype)
    mask = compete({"w": tensor}, 0.25, criterion, pattern)["w"]
    size = {"row": 48, "column": 64}.get(str(pattern), 8 if isinstance(pattern, dict) else 1)
    assert int((~mask).sum()) == -(-768 // size) * size


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (1, 1)])
@pytest.mark.parametrize("pattern", ["unstructured", "row", "column", {"type": "block", "shape": [1, 1]}])
@pytest.mark.parametrize("scope", ["tensor", "global", "erk", "row"])
def test_empty_and_single_tensors(shape: tuple[int, int], pattern: Any, scope: str) -> None:
    if scope == "row" and pattern in ("row", "column"):
        pattern = "unstructured"
    with torch.no_grad():
        masks = compete({"w": torch.randn(shape), "v": torch.randn(4, 4)}, 0.5, pattern=pattern, scope=scope)
    assert masks["w"].shape == shape
    assert masks["v"].shape == (4, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("scope", ["tensor", {"type": "global", "floor": 0.2, "ceiling": 0.8}, "row"])
def test_scores_that_cannot_be_ranked_name_the_tensor(bad: float, pattern: Any, scope: Any) -> None:
    if scope == "row" and pattern in ("row", "column"):
        scope = "erk"
    tensor = torch.randn(8, 8)
    tensor[3, 3] = bad
    with pytest.raises(ScoreError, match=r"model\.w: the scores hold (NaN|infinite)"):
        compete({"model.w": tensor, "v": torch.randn(8, 8)}, 0.3, pattern=pattern, scope=scope)
