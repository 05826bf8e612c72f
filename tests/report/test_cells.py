"""Maps of blocks: what is counted in each cell."""

from __future__ import annotations

import pytest
import torch

from sparsify.report.cells import MOST, cells_of


def test_counts_of_a_matrix_made_by_hand() -> None:
    cube = torch.zeros(130, 1, 3, dtype=torch.bool)
    cube[0, 0, 0] = cube[3, 0, 0] = cube[4, 0, 0] = cube[129, 0, 2] = True
    cells = cells_of(cube)
    assert (cells.row_step, cells.column_step) == (4, 1), "130 rows make 65 cells of two"
    assert cells.counts.shape == (33, 3)
    assert cells.counts.nonzero().tolist() == [[0, 0], [1, 0], [32, 2]]
    assert (cells.counts[0, 0], cells.counts[1, 0], cells.counts[32, 2]) == (2, 1, 1)
    assert cells.elements()[32].tolist() == [2, 2, 2], "the last cell has two rows"
    assert (cells.density()[0, 0], cells.density()[32, 2]) == (0.5, 0.5)
    assert cells.span(32, 2) == (128, 129, 2, 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 1, 64), (65, 3, 63), (7, 2, 1000), (384, 1, 1536)])
@pytest.mark.parametrize("factor", [1, 2, 8, 128])
def test_every_weight_is_in_one_cell(shape: tuple[int, int, int], factor: int) -> None:
    cube = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3
    cells = cells_of(cube).coarser(factor)
    assert max(cells.counts.shape) <= MOST
    assert int(cells.counts.sum()) == int(cube.sum())
    assert int(cells.elements().sum()) == cube.numel()
    for down in range(cells.counts.shape[0]):
        for across in range(cells.counts.shape[1]):
            top, bottom, left, right = cells.span(down, across)
            inside = cube[top : bottom + 1, :, left : right + 1]
            assert cells.counts[down, across] == inside.sum()
            assert cells.elements()[down, across] == inside.numel()
