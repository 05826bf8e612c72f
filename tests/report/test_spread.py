"""Some of many."""

from __future__ import annotations

import pytest

from sparsify.report.spread import left_out, spread


@pytest.mark.parametrize(
    ("count", "most", "wanted"),
    [(3, 5, [0, 1, 2]), (5, 3, [0, 2, 4]), (200, 4, [0, 66, 132, 199]), (9, 1, [0]), (9, 0, [0]), (0, 3, [])],
)
def test_first_and_last_are_among_them(count: int, most: int, wanted: list[int]) -> None:
    assert spread(range(count), most) == wanted


def test_what_is_left_out_is_said() -> None:
    assert left_out(3, 3, "layers") == ""
    assert left_out(3, 200, "layers") == "3 of 200 layers are drawn, evenly spaced"
