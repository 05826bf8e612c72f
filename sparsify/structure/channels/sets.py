"""Which channels must die together, and which cannot die: a union of sets with reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from sparsify.structure.channels.data import Kind

ALIVE = 0
"""The label of what is no channel that may die: inputs of the model, constants."""

Place = tuple[str, int]
"""A tensor by name and one of its dimensions."""


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

    def members(self) -> dict[int, dict[tuple[Place, Kind], list[int]]]:
        """Return root → (tensor and dimension, kind) → positions, of the channels that may die."""
        found: dict[int, dict[tuple[Place, Kind], list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, kind, known in self.attached():
            for position, label in sorted(known.items()):
                if label == ALIVE:
                    continue
                if (why := self.strange.get(place[0])) is not None:
                    self.keep([label], f"{place[0]} {why}")
                found[self.root(label)][place, kind].append(position)
        return {root: own for root, own in found.items() if root not in self._reasons}
