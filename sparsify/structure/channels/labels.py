"""Label tensors: the channel of every element of a tensor. They are expanded wherever elements are alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What is known of a tensor of the forward."""

    labels: Tensor
    """The channel of every element, int64 in the tensor's shape."""

    zero: bool
    """Whether the elements of a dead channel are exactly zero."""

    why: str = ""
    """What makes them something else, where they are not."""


@dataclass(frozen=True)
class Origin:
    """A parameter or a buffer, or a view of one."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""

    places: Tensor
    """Where every element comes from in the flattened parameter, int64."""


def core(labels: Tensor) -> Tensor:
    """Return labels with one element along dimensions in which nothing changes for being expanded; same rank."""
    for axis, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def varies(labels: Tensor, axis: int) -> bool:
    """Whether labels change along a dimension."""
    small = core(labels)
    if small.shape[axis] < 2:
        return False
    return not bool((small == small.narrow(axis, 0, 1)).all())


def along(labels: Tensor, axis: int) -> Tensor | None:
    """Return the labels of a dimension, 1-D, where they change along no other; else None."""
    small = core(labels)
    for other in range(small.dim()):
        if other != axis % small.dim() and small.shape[other] > 1:
            if varies(small, other):
                return None
            small = small.narrow(other, 0, 1)
    return small.flatten().expand(labels.shape[axis]) if small.numel() == 1 else small.flatten()


def fill(labels: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """Return labels of one dimension, 1-D, as those of a whole tensor."""
    sides = [1] * len(shape)
    sides[axis] = -1
    return labels.reshape(sides).expand(shape)


def distinct(labels: Tensor) -> list[int]:
    """Return every label that occurs."""
    return [int(label) for label in torch.unique(core(labels)).tolist()]


def pairs(one: Tensor, other: Tensor) -> list[tuple[int, int]]:
    """Return every pair of labels that occurs at one place of two tensors of one shape."""
    for axis in range(one.dim()):
        if one.stride(axis) == 0 and other.stride(axis) == 0 and one.shape[axis] > 1:
            one, other = one.narrow(axis, 0, 1), other.narrow(axis, 0, 1)
    base = int(max(one.max(), other.max())) + 1 if one.numel() else 1
    keys = torch.unique(one * base + other).tolist()
    return [divmod(int(key), base) for key in keys]
