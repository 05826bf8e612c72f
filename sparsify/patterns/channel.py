"""Channels: an input channel of a convolution is used or ignored as a whole, or all that must die with a channel."""

from __future__ import annotations

from typing import Literal

from sparsify.layers import Weight
from sparsify.patterns.column import Column


class Channel(Column):
    """One group an input channel, all taps and the filters that see it. For convolutions, transposed ones too.

    With `coupled` a group is an output channel and everything that must die with it: rows of all convolutions and
    linear layers that meet in a sum, a product or a depthwise convolution, their biases, and what norms make of them.
    So a network can really become narrower.
    Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (2017), for the structure.
    """

    type: Literal["channel"] = "channel"  # type: ignore[assignment]

    coupled: bool | None = None
    """Whether channels that must die together are one group, found by following a forward of a random copy."""

    @property
    def couples(self) -> bool:
        return bool(self.coupled)

    def label(self) -> str:
        return super().label() + (" (coupled)" if self.coupled else "")

    def problem(self, weight: Weight) -> str | None:
        return None if weight.convolution else "is no convolution, so it has no channels (`column` is alike)"
