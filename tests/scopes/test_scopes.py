"""Who competes with whom: floors, ceilings, shapes, and nesting."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.masking import Competition, budget
from sparsify.patterns import Pattern
from sparsify.scopes import Scope
from tests.competing import compete, weight_of
from tests.drawn import examples


def slow_bounds(tensors: dict[str, Tensor], sparsity: float, floor: float, ceiling: float) -> dict[str, Tensor]:
    """Solve by fixing: whoever leaves the bounds is put on them, and the rest solved again."""
    counts = {name: math.ceil(floor * tensor.numel() - 1e-9) for name, tensor in tensors.items()}
    if sum(counts.values()) < budget(sparsity, sum(t.numel() for t in tensors.values())):
        counts = _fixed(tensors, sparsity, floor, ceiling)
    masks = {}
    for name, tensor in tensors.items():
        mask = torch.ones(tensor.numel(), dtype=torch.bool)
        mask[tensor.abs().flatten().argsort(stable=True)[: counts[name]]] = False
        masks[name] = mask.view(tensor.shape)
    return masks


def _fixed(tensors: dict[str, Tensor], sparsity: float, floor: float, ceiling: float) -> dict[str, int]:
    """Return how many weights of every tensor are pruned."""
    counts: dict[str, int] = {}
    while True:
        free = {name: tensor.abs().flatten() for name, tensor in tensors.items() if name not in counts}
        left = budget(sparsity, sum(t.numel() for t in tensors.values())) - sum(counts.values())
        ranked = sorted(
            ((float(value), place, name) for place, (name, flat) in enumerate(free.items()) for value in flat),
            key=lambda entry: (entry[0], entry[1]),
        )
        found = {name: sum(entry[2] == name for entry in ranked[:left]) for name in free}
        low = {name: math.ceil(floor * flat.numel() - 1e-9) for name, flat in free.items()}
        high = {name: math.floor(ceiling * flat.numel() + 1e-9) for name, flat in free.items()}
        # the side that is violated by more is fixed first, as water-filling does
        above = {n: high[n] for n in free if found[n] > high[n]}
        below = {n: low[n] for n in free if found[n] < low[n]}
        if not above and not below:
            return counts | found
        excess = sum(found[n] - high[n] for n in above)
        lack = sum(low[n] - found[n] for n in below)
        counts |= above if excess >= lack else below


@given(st.integers(0, 2**31), st.floats(0, 0.9), st.floats(0, 0.5), st.floats(0.9, 1))
@examples(100)
def test_floor_and_ceiling_are_fixing_and_solving_again(
    seed: int, sparsity: float, floor: float, ceiling: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(4, 25, generator=generator) * scale
        for name, scale in zip("abcd", (1, 2, 9, 0.1), strict=True)
    }
    floor = min(floor, sparsity)
    scope = {"type": "global", "floor": floor, "ceiling": ceiling}
    masks = compete(tensors, sparsity, scope=scope)
    for name, wanted in slow_bounds(tensors, sparsity, floor, ceiling).items():
        assert torch.equal(masks[name], wanted)
        pruned = int((~masks[name]).sum())
        assert math.ceil(floor * 100 - 1e-9) <= pruned <= math.floor(ceiling * 100 + 1e-9)


@pytest.mark.parametrize("scope", ["global", "erk"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "row", {"type": "block", "shape": [4, 4]}])
def test_masks_nest_under_floors_and_ceilings(scope: str, pattern: Any) -> None:
    torch.manual_seed(0)
    tensors = {"a": torch.randn(16, 16), "b": torch.randn(32, 16) * 5, "c": torch.randn(16, 64) * 0.2}
    most = 0.5 if pattern == "2:4" else 0.9
    before: dict[str, Tensor] = {}
    for step in range(11):
        bounds = {"type": scope, "floor": 0.2 * most, "ceiling": most}
        masks = compete(tensors, most * step / 10, pattern=pattern, scope=bounds)
        for name, old in before.items():
            assert not bool((masks[name] & ~old).any())
        before = masks


@pytest.mark.parametrize("scope", ["global", {"type": "global", "floor": 0.1, "ceiling": 0.8}])
@pytest.mark.parametrize("pattern", ["column", "row", {"type": "block", "shape": [5, 3], "ragged": "pad"}])
def test_masks_nest_where_groups_are_of_different_sizes(pattern: Any, scope: Any) -> None:
    """Pruned groups are all zero: ranked by index alone, some would come back."""
    torch.manual_seed(0)
    weights = [
        weight_of("a", torch.randn(8, 10)),
        weight_of("b", torch.randn(20, 10)),
        weight_of("c", torch.randn(12, 7)),
    ]
    axes = Criterion.parse("magnitude"), Pattern.parse(pattern), Scope.parse(scope)
    bundles, _ = axes[1].bundles(weights, None)
    competition = Competition.of(bundles, *axes)
    before: dict[str, Tensor] | None = None
    for step in range(41):
        masks = competition.masks(lambda arena, s=step / 50: s, before)  # type: ignore[misc]
        for name, old in (before or {}).items():
            assert not bool((masks[name] & ~old).any())
        for weight in weights:
            weight.parameter.data *= masks[weight.name]
        size = max(bundle.size for bundle in bundles)
        pruned = sum(int((~mask).sum()) for mask in masks.values())
        assert budget(step / 50, 364) <= pruned < budget(step / 50, 364) + 3 * size
        before = masks


def test_erk_gives_small_tensors_more() -> None:
    torch.manual_seed(0)
    tensors = {"small": torch.randn(16, 16), "large": torch.randn(128, 256), "conv": torch.randn(32, 16, 3, 3)}
    masks = compete(tensors, 0.9, scope="erk")
    density = {name: float(mask.float().mean()) for name, mask in masks.items()}
    # by hand: density = ε (sum of dimensions) / (their product), at most 1; small tensors saturate first
    raw = {"small": 32 / 256, "large": 384 / 32768, "conv": 54 / 4608}
    kept = 0.1 * (256 + 32768 + 4608)
    scale = (kept - 256) / (384 + 54)
    assert scale * raw["small"] > 1
    assert density["small"] == 1
    assert density["large"] == pytest.approx(scale * raw["large"], abs=1 / 32768)
    assert density["conv"] == pytest.approx(scale * raw["conv"], abs=1 / 4608)
    assert sum(int(mask.sum()) for mask in masks.values()) == pytest.approx(kept, abs=2)
