"""Positions against a slow and obvious reading; damaged ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify.storage import positions


def obvious_gaps(kept: list[bool]) -> list[int]:
    found, zeros = [], 0
    for one in kept:
        if not one:
            zeros += 1
            continue
        found += [255] * (zeros // 255) + [zeros % 255]
        zeros = 0
    return found


MASKS = st.lists(st.tuples(st.booleans(), st.sampled_from((1, 2, 9, 254, 255, 256, 511))), max_size=12).map(
    lambda runs: [one for one, length in runs for _ in range(length)]
)


@given(MASKS)
def test_gaps_and_bitmaps_say_where_numbers_are(mask: list[bool]) -> None:
    kept = np.array(mask, dtype=bool)
    gaps = positions.gaps(kept)
    assert gaps.tolist() == obvious_gaps(mask)
    assert len(gaps) <= positions.most_gaps(len(mask), int(kept.sum()))
    wanted = np.flatnonzero(kept).tolist()
    bitmap = positions.bitmap(kept)
    assert len(bitmap) == positions.bitmap_size(len(mask))
    for read, data in ((positions.from_gaps, gaps), (positions.from_bitmap, bitmap)):
        found = positions.all_indices(read(data, len(mask)), len(mask), len(wanted))
        assert found.tolist() == wanted


@pytest.mark.parametrize("data", [[3, 3], [255, 255], [0] * 6, [9]])
def test_gaps_beyond_the_tensor_are_refused(data: list[int]) -> None:
    out = np.zeros(5, np.uint32)
    with pytest.raises(ValueError, match="more numbers|beyond|values"):
        positions.place(out, positions.from_gaps(np.array(data, np.uint8), 5), np.ones(2, np.uint32))
    with pytest.raises(ValueError, match="more numbers|beyond|positions"):
        positions.all_indices(positions.from_gaps(np.array(data, np.uint8), 5), 5, 2)


def test_bitmaps_with_other_counts_are_refused() -> None:
    for byte in (0b111, 0b1, 0b100000):
        with pytest.raises(ValueError, match="more|bits beyond"):
            positions.place(
                np.zeros(5, np.uint16), positions.from_bitmap(np.array([byte], np.uint8), 5), np.ones(2, np.uint16)
            )
