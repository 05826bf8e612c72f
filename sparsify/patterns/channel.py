"""Channels: an input channel of a convolution is used or ignored as a whole."""

from __future__ import annotations

from typing import Literal

from sparsify.layers import Weight
from sparsify.patterns.column import Column


class Channel(Column):
    """One group an input channel, all taps and the filters that see it. For convolutions, transposed ones too.

    Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (2017), for the structure.
    """

    type: Literal["channel"] = "channel"  # type: ignore[assignment]

    def problem(self, weight: Weight) -> str | None:
        return None if weight.convolution else "is no convolution, so it has no channels (`column` is alike)"
