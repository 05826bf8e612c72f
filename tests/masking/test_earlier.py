"""What earlier masks pruned is ranked first and stays pruned, against slow references."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsify.anatomy import read
from sparsify.criteria import Criterion
from sparsify.layers import Weight, all_weights
from sparsify.masking import Competition, budget
from sparsify.masking.earlier import gone_tiles, pruned_elements
from sparsify.masking.groups import spread
from sparsify.patterns import Pattern
from sparsify.scopes import Scope
from tests.competing import weight_of
from tests.drawn import examples
from tests.layers import KINDS

SPARSITIES = (0.0, 0.2, 0.45, 0.8, 1.0)


def competition(weights: list[Weight], pattern: Any, scope: Any, criterion: Any = "magnitude") -> Competition:
    axes = Criterion.parse(criterion), Pattern.parse(pattern), Scope.parse(scope)
    bundles, misfits = axes[1].bundles(weights, None)
    assert not misfits
    return Competition.of(bundles, *axes)


def slow(scores: Tensor, sizes: Tensor, gone: Tensor, elements: int) -> Tensor:
    """Prune the groups that are gone, then the lowest of the others, until the budget is reached."""
    mask = ~gone
    left = elements - int(sizes[gone].sum())
    for index in scores.argsort(stable=True).tolist():
        if left <= 0:
            break
        if mask[index]:
            mask[index] = False
            left -= int(sizes[index])
    return mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Draw tensors [8, 12] with ties and zeros, masks of some or all of them that prune anything, and a sparsity."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensors = {name: torch.randint(-6, 7, (8, 12), generator=generator).double() for name in "ab"}
    rate = draw(st.sampled_from([0.0, 0.1, 0.5, 0.95]))
    before = {name: torch.rand(8, 12, generator=generator) > rate for name in draw(st.sampled_from(["", "b", "ab"]))}
    if draw(st.booleans()):
        for mask in before.values():
            mask[draw(st.integers(0, 7))] = False
    return tensors, before, draw(st.sampled_from(SPARSITIES))


def none_gone(before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: before.get(name, torch.ones(8, 12, dtype=torch.bool)) for name in "ab"}


@given(cases(), st.booleans(), st.sampled_from(["tensor", "global", "row"]))
@examples(150)
def test_single_weights_that_are_pruned_go_first(
    case: tuple[dict[str, Tensor], dict[str, Tensor], float], learned: bool, scope: str
) -> None:
    tensors, before, sparsity = case
    weights = [weight_of(name, tensor) for name, tensor in tensors.items()]
    scores = {name: tensor.flip(0) for name, tensor in tensors.items()} if learned else None
    found = competition(weights, "unstructured", scope, "movement" if learned else "magnitude").masks(
        lambda arena: sparsity, before, scores
    )
    kept = none_gone(before)
    ranked = scores or {name: tensor.abs() for name, tensor in tensors.items()}
    arenas: Any = {
        "tensor": [(ranked[name].flatten(), kept[name].flatten(), found[name].flatten()) for name in "ab"],
        "global": [tuple(torch.cat([part[name].flatten() for name in "ab"]) for part in (ranked, kept, found))],
        "row": [row for name in "ab" for row in zip(ranked[name], kept[name], found[name], strict=True)],
    }[scope]
    for values, earlier, mine in arenas:
        wanted = slow(values, torch.ones(values.numel()), ~earlier, budget(sparsity, values.numel()))
        assert torch.equal(mine, wanted)


@given(cases(), st.sampled_from([[2, 3], [5, 5], [1, 12]]), st.sampled_from(["tensor", "global"]))
@examples(150)
def test_groups_that_are_wholly_pruned_go_first_and_others_keep_their_zeros(
    case: tuple[dict[str, Tensor], dict[str, Tensor], float], shape: list[int], scope: str
) -> None:
    tensors, before, sparsity = case
    weights = [weight_of(name, tensor) for name, tensor in tensors.items()]
    pattern = {"type": "block", "shape": shape, "ragged": "pad", "reduce": "max"}
    made = competition(weights, pattern, scope)
    found = made.masks(lambda arena: sparsity, before)
    plain = made.masks(lambda arena: sparsity)
    kept = none_gone(before)
    if not any(bool((plain[name] & ~kept[name]).any()) for name in "ab"):
        assert all(torch.equal(found[name], plain[name]) for name in "ab")
        return

    def groups(tensor: Tensor) -> list[Tensor]:
        rows = [tensor[r : r + shape[0]] for r in range(0, 8, shape[0])]
        return [band[:, c : c + shape[1]].flatten() for band in rows for c in range(0, 12, shape[1])]

    for names in [["a", "b"]] if scope == "global" else [["a"], ["b"]]:
        mine = [mask for name in names for mask in groups(found[name])]
        earlier = [mask for name in names for mask in groups(kept[name])]
        if scope == "tensor" and not bool((plain[names[0]] & ~kept[names[0]]).any()):
            assert torch.equal(found[names[0]], plain[names[0]])
            continue
        scores = torch.stack([part.abs().max() for name in names for part in groups(tensors[name])])
        sizes = torch.tensor([part.numel() for part in mine])
        gone = torch.tensor([not bool(part.any()) for part in earlier])
        wanted = slow(scores, sizes, gone, budget(sparsity, int(sizes.sum())))
        for mask, old, keep in zip(mine, earlier, wanted.tolist(), strict=True):
            assert torch.equal(mask, old & keep)


@given(cases(), st.sampled_from(["tensor", "row", "global"]))
@examples(60)
def test_n_m_holds_though_some_groups_have_lost_more(
    case: tuple[dict[str, Tensor], dict[str, Tensor], float], scope: str
) -> None:
    tensors, before, part = case
    made = competition([weight_of(name, tensor) for name, tensor in tensors.items()], "2:4", scope)
    found = made.masks(lambda arena: 0.5 * part, before)
    for name, earlier in none_gone(before).items():
        assert not bool((found[name] & ~earlier).any())
    if scope == "global":  # others round by themselves
        assert sum(int((~mask).sum()) for mask in found.values()) >= budget(0.5 * part, 192)
    if part == 1:
        assert all(int(mask.view(-1, 4).sum(1).max()) <= 2 for mask in found.values())


@given(cases())
@examples(60)
def test_floors_and_ceilings_hold_for_what_is_left(case: tuple[dict[str, Tensor], dict[str, Tensor], float]) -> None:
    tensors, before, sparsity = case
    tensors["b"] = tensors["b"] * 9
    scope = {"type": "global", "floor": 0.1, "ceiling": 0.8}
    sparsity = min(sparsity, 0.7)
    made = competition([weight_of(name, tensor) for name, tensor in tensors.items()], "unstructured", scope)
    found = made.masks(lambda arena: sparsity, before)
    gone = {name: int((~mask).sum()) for name, mask in none_gone(before).items()}
    for name, mask in found.items():
        assert not bool((mask & ~none_gone(before)[name]).any())
        pruned = int((~mask).sum())
        assert min(math.ceil(0.1 * 96), math.ceil(sparsity * 96)) <= pruned <= max(math.floor(0.8 * 96), gone[name])
    assert sum(int((~mask).sum()) for mask in found.values()) >= budget(sparsity, 192)


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("scope", ["tensor", "global", "row", {"type": "erk", "floor": 0.1, "ceiling": 0.95}])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:4", {"type": "block", "shape": [2, 4]}])
def test_masks_nest_under_any_earlier_mask_in_small_pieces(pattern: Any, scope: Any, criterion: str) -> None:
    """The criterion knows nothing of the earlier mask: no weight is zero."""
    tensors = {"a": torch.randn(16, 16) + 5, "b": torch.randn(8, 24)}
    before = {"a": torch.rand(16, 16) > 0.4}
    before["a"][:4] = False
    made = competition([weight_of(name, tensor) for name, tensor in tensors.items()], pattern, scope, criterion)
    for sparsity in (0.0, 0.1, 0.3, 0.5):
        found = made.masks(lambda arena, s=sparsity: s, before)  # type: ignore[misc]
        for name, old in before.items():
            assert not bool((found[name] & ~old).any())
        before = found


@pytest.mark.parametrize("grouped", ["whole", "quota"])
def test_heads_that_are_gone_go_first_and_one_more_is_guarded(grouped: str) -> None:
    model = KINDS["Llama"].build()
    anatomy = read(model)
    assert anatomy is not None
    axes = Criterion.parse("magnitude"), Pattern.parse({"type": "head", "grouped": grouped}), Scope.parse("tensor")
    bundles, _ = axes[1].bundles(all_weights(model), anatomy)
    made = Competition.of(bundles, *axes, anatomy)
    first = made.masks(lambda arena: 0.5)
    for bundle in bundles:
        gone = sum(int((~first[part.weight.name]).sum()) for part in bundle.parts)
        assert pruned_elements(bundle, first) == gone > 0
    everything = {weight.name: weight for bundle in bundles for weight in (part.weight for part in bundle.parts)}
    for weight in everything.values():  # what was pruned is now the largest
        weight.parameter.data += 100 * (~first[weight.name]).to(weight.parameter.dtype)
    again = made.masks(lambda arena: 0.5, first)
    assert all(torch.equal(mask, first[name]) for name, mask in again.items())
    more = made.masks(lambda arena: 0.75 if grouped == "whole" else 0.5, first)
    for name, mask in more.items():
        assert not bool((mask & ~first[name]).any())
        assert 0 < int(mask.sum()) <= int(first[name].sum())


@pytest.mark.parametrize("grouped", ["whole", "quota"])
def test_heads_that_are_all_gone_fill_the_budget_though_one_should_stay(grouped: str) -> None:
    """Otherwise another block would lose a head for the one that is not there."""
    model = KINDS["Llama"].build()
    anatomy = read(model)
    assert anatomy is not None
    axes = Criterion.parse("magnitude"), Pattern.parse({"type": "head", "grouped": grouped}), Scope.parse("global")
    bundles, _ = axes[1].bundles(all_weights(model), anatomy)
    assert len(bundles) > 1
    assert bundles[0].least
    made = Competition.of(bundles, *axes, anatomy)
    before = {
        part.weight.name: torch.full(part.weight.shape, bundle is not bundles[0])
        for bundle in bundles
        for part in bundle.parts
    }
    share = bundles[0].elements / sum(bundle.elements for bundle in bundles)
    for name, mask in made.masks(lambda arena: share, before).items():
        assert torch.equal(mask, before[name]), name


def test_gates_that_are_gone_stay_closed() -> None:
    tensors = {"a": torch.randn(8, 8), "b": torch.randn(8, 8)}
    weights = [weight_of(name, tensor) for name, tensor in tensors.items()]
    before = {"b": torch.ones(8, 8, dtype=torch.bool)}
    before["b"][::2] = False
    before["b"][1, 0] = False
    for pattern, single in (("unstructured", True), ("row", False)):
        made = competition(weights, pattern, "tensor", "soft-movement")
        shape = (8, 8) if single else (8,)
        scores = {name: torch.full(shape, 2.0) for name in tensors}
        (_, (kept, passed)) = made.above([0, 1], 0.0, 0.0, scores, before)
        gone = ~before["b"].flatten() if single else torch.tensor([True, False] * 4)
        assert torch.equal(kept, ~gone)
        assert torch.equal(passed, ~gone)
        (_, (kept, passed)) = made.above([0, 1], 3.0, 0.25, scores, before)
        assert not bool((kept & gone).any())
        assert int(kept.sum()) == kept.numel() // 4
        assert not bool(passed.any())


def test_masks_in_force_are_compared_by_tiles_and_changed_ones_as_a_whole() -> None:
    torch.manual_seed(0)
    weight = weight_of("a", torch.randn(16, 16))
    made = competition([weight], "row", "tensor")
    first = made.masks(lambda arena: 0.25)
    weight.parameter.data += 100 * (~first["a"]).double().to(weight.parameter.dtype)  # pruned rows are the largest
    second = made.masks(lambda arena: 0.25, first)
    assert torch.equal(second["a"], first["a"])
    again = made.masks(lambda arena: 0.25, second)
    assert torch.equal(again["a"], first["a"])
    weight.parameter.data *= again["a"]
    third = made.masks(lambda arena: 0.5, again)
    assert int(third["a"].any(1).sum()) == 8
    third["a"][third["a"].any(1).nonzero()[0], 3] = False  # somebody prunes one weight more
    fourth = made.masks(lambda arena: 0.5, third)
    assert torch.equal(fourth["a"], third["a"])
    assert int((~fourth["a"]).sum()) == 8 * 16 + 1
    fifth = made.masks(lambda arena: 0.5, {"a": third["a"].clone()})
    assert torch.equal(fifth["a"], third["a"])


@pytest.mark.parametrize("offset", [0, 2, 8])
@pytest.mark.parametrize("shape", [(8, 16), (8, 15), (1, 7)])
def test_earlier_masks_may_be_views_of_any_kind(offset: int, shape: tuple[int, int]) -> None:
    weight = weight_of("a", torch.rand(shape) + 1)
    made = competition([weight], "unstructured", "tensor")
    count = weight.geometry.elements
    flat = torch.rand(count + offset) > 0.5
    views = [flat[offset:].view(shape), (torch.rand(shape[::-1]) > 0.5).t()]
    for before in views:
        mask = made.masks(lambda arena: 0.25, {"a": before})["a"]
        assert not bool((mask & ~before).any())
        assert int((~mask).sum()) == max(round(0.25 * count), int((~before).sum()))


def test_a_group_of_several_tensors_is_gone_where_all_its_parts_are() -> None:
    model = KINDS["Llama"].build()
    anatomy = read(model)
    assert anatomy is not None
    (bundle, *_) = Pattern.parse("head").bundles(all_weights(model), anatomy)[0]
    one = torch.arange(bundle.tiles) == 1
    dead = {part.weight.name: spread(part, ~one).expand(part.weight.shape) for part in bundle.parts}
    gone = gone_tiles(bundle, dead)
    assert gone is not None
    assert torch.equal(gone, one)
    assert pruned_elements(bundle, dead) == bundle.size
    for name, mask in dead.items():
        alive = dead | {name: torch.ones_like(mask)}
        assert gone_tiles(bundle, alive) is None
        assert pruned_elements(bundle, alive) == 0


def test_rows_that_are_gone_count_with_all_their_weights() -> None:
    weight = weight_of("a", torch.rand(6, 5))
    ((bundle,), _) = Pattern.parse("row").bundles([weight], None)
    before = torch.ones(6, 5, dtype=torch.bool)
    before[:2], before[3, 0] = False, False
    assert pruned_elements(bundle, {"a": before}) == 10
    ((bundle,), _) = Pattern.parse({"type": "block", "shape": [4, 4], "ragged": "pad"}).bundles([weight], None)
    before = torch.ones(6, 5, dtype=torch.bool)
    before[4:, 4:], before[:4, :4] = False, False
    assert pruned_elements(bundle, {"a": before}) == 16 + 2
    assert pruned_elements(bundle, None) == 0
