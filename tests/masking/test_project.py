"""Projection of tensors and masks that lie in memory in any way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsify.masking.project import count_zeros, project_


@pytest.mark.parametrize("turned", ["tensor", "mask", "both", "none"])
def test_strides_do_not_matter(turned: str) -> None:
    def lay(values: Tensor, name: str) -> Tensor:
        return values.t().contiguous().t() if turned in (name, "both") else values

    values = torch.randn(6, 5)
    values[0] = torch.tensor([math.nan, -math.inf, -1.0, -0.0, 2.0])
    kept = torch.rand(6, 5) > 0.5
    kept[0] = torch.tensor([False, False, False, False, True])
    tensor = lay(values.clone(), "tensor")
    assert project_(tensor, lay(kept, "mask")) is tensor
    assert torch.equal(tensor, torch.where(kept, values, 0.0))
    assert not bool(torch.signbit(tensor[~kept]).any())
    assert count_zeros(tensor) == int((~kept).sum())
