"""Which channels must die together, and which cannot die: a union of sets with reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify.structure.channels.data import Kind

ALIVE = 0
"""The label of what is no channel that may die: inputs of the model, constants."""

Place = tuple[str, int]
"""A tensor by name and one of its dimensions."""


@dataclass(frozen=True)
class Line:
    """The positions along one dimension of a tensor whose channels may die."""

    place: Place
    kind: Kind
    positions: Tensor
    """Ascending; int64 [n]."""

    roots: Tensor
    """The number of the channel of each; int64 [n]."""


class Classes:
    """Channels by number (from 1), joined where they must die together, kept where they must live."""

    def __init__(self) -> None:
        self._above = [ALIVE]
        self._reasons: dict[int, str] = {}
        self._outputs: dict[Place, Tensor] = {}
        self._attached: dict[Place, tuple[Kind, dict[int, int]]] = {}
        self.strange: dict[str, str] = {}
        """Tensors that something uses in a way which is not followed → why."""

    def root(self, label: int) -> int:
        """Return the number that stands for everything joined with a channel."""
        while (above := self._above[label]) != label:
            self._above[label] = self._above[above]
            label = above
        return label

    def join(self, one: int, other: int, why: str) -> None:
        """Let two channels die together; one that is joined with something alive must stay."""
        if ALIVE in (one, other):
            self.keep([one, other], why)
            return
        first, second = sorted((self.root(one), self.root(other)))
        self._above[second] = first
        if second in self._reasons:
            self._reasons.setdefault(first, self._reasons[second])

    def keep(self, labels: Iterable[int], why: str) -> None:
        """Let channels stay; the first reason counts."""
        for label in labels:
            if label != ALIVE:
                self._reasons.setdefault(self.root(label), why)

    def reason(self, label: int) -> str | None:
        """Return why a channel must stay, or None."""
        return self._reasons.get(self.root(label))

    def new(self, place: Place, count: int) -> Tensor:
        """Return the labels of the outputs that a tensor computes along a dimension; the same again if asked again."""
        found = self._outputs.get(place)
        if found is None:
            first = len(self._above)
            self._above += range(first, first + count)
            found = self._outputs[place] = torch.arange(first, first + count)
        return found

    def attach(self, place: Place, kind: Kind, positions: Iterable[int], labels: Iterable[int], why: str) -> None:
        """Note that positions of a tensor belong to channels; a position that has one already joins the two."""
        before, known = self._attached.setdefault(place, (kind, {}))
        if before != kind:
            self.strange.setdefault(place[0], f"is used as {before} and as {kind}")
        for position, label in zip(positions, labels, strict=True):
            earlier = known.setdefault(position, label)
            if earlier != label:
                self.join(earlier, label, f"{why} reads it, and something that is no channel, with the same weights")

    def attached(self) -> Iterable[tuple[Place, Kind, dict[int, int]]]:
        """Return (tensor and dimension, kind, position → label) of everything that was attached."""
        return [(place, kind, known) for place, (kind, known) in self._attached.items()]

    def dying(self) -> list[Line]:
        """Return the positions of every place whose channels may die, with the roots of these; none that is empty."""
        for (name, _), _, known in self.attached():
            if (why := self.strange.get(name)) is not None:
                self.keep(known.values(), f"{name} {why}")
        roots = torch.tensor(self._above)
        while not torch.equal(above := roots[roots], roots):
            roots = above
        stays = torch.zeros(len(roots), dtype=torch.bool)
        stays[[ALIVE, *self._reasons]] = True
        found = []
        for place, kind, known in self.attached():
            positions, order = torch.tensor(list(known), dtype=torch.int64).sort()
            owners = roots[torch.tensor(list(known.values()), dtype=torch.int64)[order]]
            mine = ~stays[owners]
            if bool(mine.any()):
                found.append(Line(place, kind, positions[mine], owners[mine]))
        return found
