"""Mutated states are refused and change nothing, or can be gone on from."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.state_fuzz import attempt


@pytest.mark.parametrize("first", range(0, 600, 150))
def test_mutated_states(first: int) -> None:
    found = Counter(attempt(seed) for seed in range(first, first + 150))
    assert found["refused"] > 75, found
    assert found["taken up"] > 0, found
