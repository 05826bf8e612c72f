"""Bools counted eight at a time."""

import pytest
import torch

from sparsify.bits import count, count_rows

SIZES = [0, 1, 7, 8, 1023, 1024, 1025, 5000, 300_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("start", [0, 1, 8])
def test_a_count_is_what_torch_counts(size: int, part: float, start: int) -> None:
    mask = (torch.rand(size + start) < part)[start:]
    assert count(mask) == int(torch.count_nonzero(mask))


def test_what_lies_apart_is_counted_too() -> None:
    mask = torch.rand(4096, 3) < 0.5
    assert count(mask[:, 1]) == int(torch.count_nonzero(mask[:, 1]))
    assert count(torch.rand(4096) < 2) == 4096


@pytest.mark.parametrize("width", [1, 8, 12, 768, 2040, 2048, 6000])
@pytest.mark.parametrize("part", [0.4, 1.0])
def test_rows_are_counted_one_by_one(width: int, part: float) -> None:
    mask = torch.rand(5, width) < part
    assert torch.equal(count_rows(mask), mask.sum(1, keepdim=True))
    assert torch.equal(count_rows(mask[:, 1:]), mask[:, 1:].sum(1, keepdim=True))
