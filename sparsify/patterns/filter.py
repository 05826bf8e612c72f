"""Filters: an output channel of a convolution lives or dies as a whole, with its bias."""

from __future__ import annotations

from typing import Literal

from sparsify.layers import Weight
from sparsify.patterns.bundle import Bundle, Part
from sparsify.patterns.row import Row


class Filter(Row):
    """One group an output channel, all taps and inputs, and its bias. For convolutions, transposed ones too.

    Source: Li et al., "Pruning Filters for Efficient ConvNets" (2017): `reduce: sum` is their ranking.
    """

    type: Literal["filter"] = "filter"  # type: ignore[assignment]

    def problem(self, weight: Weight) -> str | None:
        return None if weight.convolution else "is no convolution, so it has no filters (`row` is alike)"

    def bundle(self, weight: Weight) -> Bundle:
        bias = weight.bias()
        beside = (Part(bias, (1, 1, 1)),) if bias is not None else ()
        return Bundle(weight.name, (Part(weight, self.tile(weight)), *beside))
