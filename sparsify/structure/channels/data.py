"""Channels that die together, as plain data: which places of which tensors belong to which group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Kind = Literal["output", "bias", "norm", "statistic", "input"]
"""`output`: what computes a channel. `bias`: its bias. `norm`: a scale or shift on the way. `statistic`: a buffer of a
norm. `input`: what reads the channel."""

DYING = ("output", "bias", "norm")
"""What is zero where a channel is dead."""


@dataclass(frozen=True)
class Side:
    """The places along one dimension of one tensor that belong to groups."""

    name: str
    """The parameter (or buffer) by its name in the model."""

    axis: int
    """The dimension of the tensor."""

    kind: Kind
    places: Tensor = field(compare=False)
    """Along the dimension, ascending; int64 [m]."""

    groups: Tensor = field(compare=False)
    """The group of every place; int64 [m]."""


@dataclass(frozen=True)
class ChannelSet:
    """Groups that lie in the same tensors; they compete, and at least one of them stays."""

    name: str
    """The module that computes them; of several, the first. With rows where it has several sets."""

    count: int
    """The number of groups."""

    sides: tuple[Side, ...]

    @property
    def dying(self) -> Iterator[Side]:
        """What is zero where a group is dead."""
        return (side for side in self.sides if side.kind in DYING)

    @property
    def reading(self) -> Iterator[Side]:
        """What reads the channels: free where a group is dead."""
        return (side for side in self.sides if side.kind == "input")


@dataclass(frozen=True)
class Channels:
    """What a model's channels are coupled to."""

    sets: tuple[ChannelSet, ...]
    whole: dict[str, str]
    """Parameters whose channels must all stay, or cannot be followed → why."""

    unseen: tuple[str, ...] = ()
    """Parameters that the forward in evaluation mode does not use: nothing is known of them."""
