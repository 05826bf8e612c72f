"""The search for an order of columns, beside slow and obvious ones."""

from __future__ import annotations

from itertools import combinations, permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsify.structure import permute
from sparsify.structure.permute import kept, search
from sparsify.structure.swaps import Descent


def drawn(columns: int, rows: int, seed: int) -> Tensor:
    """Return magnitudes [columns, rows]; some columns are much larger, as in trained models."""
    made = torch.Generator().manual_seed(seed)
    scale = torch.rand(columns, 1, generator=made).exp2() * 3
    return torch.randn(columns, rows, generator=made).abs() * scale


def slowly_kept(columns: Tensor, n: int, m: int) -> float:
    total = 0.0
    for start in range(0, len(columns), m):
        for row in columns[start : start + m].T.tolist():
            total += sum(sorted(row, reverse=True)[:n])
    return total


def best_of_all(columns: Tensor, n: int, m: int) -> float:
    """Return the most that any order of two groups keeps."""
    places = range(len(columns))
    return max(
        slowly_kept(columns[[*first, *(place for place in places if place not in first)]], n, m)
        for first in combinations(places, m)
    )


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 3), (1, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_order_of_two_groups_is_found(n: int, m: int, seed: int) -> None:
    columns = drawn(2 * m, 7, seed)
    found = search(columns, n, m, seed=seed)
    assert kept(columns[found.order], n, m) == pytest.approx(best_of_all(columns, n, m), rel=1e-6)
    assert found.in_time


def test_every_order_of_six_columns_is_no_better() -> None:
    columns = drawn(6, 5, 3)
    best = max(slowly_kept(columns[list(order)], 1, 2) for order in permutations(range(6)))
    assert kept(columns[search(columns, 1, 2).order], 1, 2) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 5)])
def test_what_a_swap_gives_is_known_also_after_many(n: int, m: int) -> None:
    descent = Descent(drawn(4 * m, 6, 1).double(), n, m)
    made = torch.Generator().manual_seed(0)
    for _ in range(5):
        descent._swap(*descent._random(made))
    assert descent.run(float("inf"), lambda: 0.0)
    assert torch.equal(descent.columns, drawn(4 * m, 6, 1).double()[descent.order])
    for place, other in product(range(4 * m), repeat=2):
        group = descent.columns[place // m * m : place // m * m + m].clone()
        assert float(descent.kept[place]) == pytest.approx(slowly_kept(group, n, m))
        group[place % m] = descent.columns[other]
        assert float(descent.after[place, other]) == pytest.approx(slowly_kept(group, n, m))


def test_no_swap_of_two_columns_helps_any_more() -> None:
    columns = drawn(24, 9, 5).double()
    found = columns[search(columns, 2, 4).order]
    best = slowly_kept(found, 2, 4)
    assert best > slowly_kept(columns, 2, 4) * 1.01
    for one, two in combinations(range(24), 2):
        swapped = found.clone()
        swapped[[one, two]] = swapped[[two, one]]
        assert slowly_kept(swapped, 2, 4) <= best * (1 + 1e-6)


@settings(max_examples=60)
@given(
    groups=st.integers(1, 6),
    rows=st.integers(1, 5),
    n=st.integers(1, 3),
    more=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_an_order_has_every_column_once_and_is_never_worse(
    groups: int, rows: int, n: int, more: int, seed: int
) -> None:
    m = n + more
    columns = drawn(groups * m, rows, seed).round()  # many are equal, some zero
    found = search(columns, n, m, seed=seed, escapes=3)
    assert found.order.sort().values.tolist() == list(range(groups * m))
    assert slowly_kept(columns[found.order], n, m) >= slowly_kept(columns, n, m)
    assert torch.equal(found.order, search(columns, n, m, seed=seed, escapes=3).order)


@pytest.mark.parametrize("columns", [torch.zeros(16, 3), torch.ones(16, 3), torch.rand(16, 0), torch.rand(4, 5)])
def test_nothing_moves_where_nothing_can_be_gained(columns: Tensor) -> None:
    assert search(columns, 2, 4).order.tolist() == list(range(len(columns)))


def test_shaking_helps_and_keeps_what_was_better() -> None:
    gains = []
    for seed in range(6):
        columns = drawn(32, 12, seed)
        plain, shaken = (kept(columns[search(columns, 2, 4, escapes=count).order], 2, 4) for count in (0, 50))
        assert shaken >= plain * (1 - 1e-7)
        gains.append(shaken / plain - 1)
    assert max(gains) > 1e-4


def test_the_deadline_ends_it_with_what_was_found_so_far() -> None:
    columns = drawn(64, 9, 0)
    clock = iter(range(10_000))
    found = search(columns, 2, 4, deadline=4, now=lambda: float(next(clock)))
    assert not found.in_time
    assert found.order.sort().values.tolist() == list(range(64))
    some, all_of_it = kept(columns[found.order], 2, 4), kept(columns[search(columns, 2, 4).order], 2, 4)
    assert kept(columns, 2, 4) < some < all_of_it
    assert search(columns, 2, 4, deadline=0, now=lambda: 1.0).order.tolist() == list(range(64))


def test_wide_matrices_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = drawn(64, 9, 2)
    whole = kept(columns[search(columns, 2, 4, escapes=0).order], 2, 4)
    monkeypatch.setattr(permute, "MOST_COLUMNS", 18)
    monkeypatch.setattr(permute, "NARROW", 0)
    found = search(columns, 2, 4)
    assert found.in_time
    assert found.order.sort().values.tolist() == list(range(64))
    first = kept(columns, 2, 4)
    assert kept(columns[found.order], 2, 4) - first > 0.9 * (whole - first)


def test_half_precision_is_searched_in_float32() -> None:
    columns = drawn(32, 9, 0).bfloat16()
    assert torch.equal(search(columns, 2, 4).order, search(columns.float(), 2, 4).order)
