"""Criteria and patterns as plug-ins could bring them: the matrix runs them like ours. They are in no registry."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from sparsify.criteria import Criterion
from sparsify.criteria.base import Place
from sparsify.layers import Weight
from sparsify.patterns import Pattern
from sparsify.patterns.base import Mapped

with pytest.MonkeyPatch.context() as patch:
    for family in (Criterion, Pattern):
        patch.setattr(family, "_members", dict(family.members()))

    class ColumnShare(Criterion):
        """A weight's share of its column's largest: it looks at the whole tensor."""

        type: Literal["column-share"] = "column-share"
        needs: ClassVar[frozenset[str]] = frozenset({"statistics"})

        def statistics(self, weight: Tensor, place: Place) -> Tensor:
            return weight.abs().amax(0)

        def score(self, weight: Tensor, place: Place) -> Tensor:
            return weight.abs() / (place.statistics[place.inputs(weight)] + 1)

    class RowShare(Criterion):
        """A weight's share of its row's largest: it looks at whole rows."""

        type: Literal["row-share"] = "row-share"
        whole_rows: ClassVar[bool] = True

        def score(self, weight: Tensor, place: Place) -> Tensor:
            return weight.abs() / (weight.abs().amax(1, keepdim=True) + 1)

    class Diagonal(Mapped):
        """The diagonals of a matrix, wrapped around: of one size in square matrices, and in others too."""

        type: Literal["diagonal"] = "diagonal"

        def groups(self, weight: Weight) -> Tensor:
            size = weight.geometry
            rows, inputs = torch.arange(size.rows).unsqueeze(1), torch.arange(size.taps * size.columns)
            return ((inputs - rows) % inputs.numel()).view(size.rows, size.taps, size.columns)

    class Corner(Mapped):
        """Nested squares around a corner: every group is of another size."""

        type: Literal["corner"] = "corner"

        def groups(self, weight: Weight) -> Tensor:
            size = weight.geometry
            rows, inputs = torch.arange(size.rows).unsqueeze(1), torch.arange(size.taps * size.columns)
            return torch.maximum(rows, inputs).view(size.rows, size.taps, size.columns)


CRITERIA: list[Criterion] = [ColumnShare(), RowShare()]
PATTERNS: list[Pattern] = [Diagonal(), Diagonal.model_validate({"reduce": "l2"}), Corner()]
