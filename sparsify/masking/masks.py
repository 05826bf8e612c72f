"""The masks in force: one for each masked parameter, and who made which of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsify.layers import Weight, row_span

Span = tuple[int, int]
"""First and last + 1 of some rows."""


@dataclass
class Masked:
    """One parameter under its mask."""

    weight: Weight
    """The whole parameter."""

    mask: Tensor
    """bool, True = keep, of the parameter's shape; True where nobody has pruned."""

    owners: dict[Span, str] = field(default_factory=dict)
    """Who made the mask of which rows; they do not overlap."""

    stale: bool = True
    """Whether the mask has not been written into the parameter yet."""

    def near(self) -> Tensor:
        """Return the mask on the parameter's device, which may have changed since."""
        device = self.weight.parameter.device
        if self.mask.device != device:
            self.mask = self.mask.to(device)
        return self.mask

    def own(self, span: Span, owner: str) -> None:
        """Note who made the mask of some rows; nobody with an empty name."""
        kept = {part: who for old, who in self.owners.items() for part in outside(old, span)}
        self.owners = kept | ({span: owner} if owner else {})


class Masks:
    """Masks by parameter. A weight may be some rows of one (query in a fused matrix): its mask is part of the whole."""

    def __init__(self) -> None:
        self._masked: dict[str, Masked] = {}

    def __iter__(self) -> Iterator[Masked]:
        return iter(self._masked.values())

    def __contains__(self, weight: Weight) -> bool:
        return weight.parameter_name in self._masked

    def masked(self, weight: Weight) -> Masked | None:
        """Return a weight's parameter under its mask, or None."""
        return self._masked.get(weight.parameter_name)

    def of(self, weight: Weight) -> Tensor | None:
        """Return the mask in force of a weight, in the shape of its region (a view); None without any."""
        masked = self._masked.get(weight.parameter_name)
        return None if masked is None else weight.region(masked.near())

    def set(self, weight: Weight, mask: Tensor, owner: str) -> None:
        """Put the mask of a weight in force, not yet applied; `owner` made it. `mask` must not be written to later."""
        masked = self._masked.get(weight.parameter_name)
        span = row_span(weight)
        if weight.span is None:
            self._masked[weight.parameter_name] = Masked(weight, mask, {span: owner})
            return
        if masked is None:
            masked = Masked(weight.whole, torch.ones_like(weight.parameter, dtype=torch.bool))
            self._masked[weight.parameter_name] = masked
        weight.region(masked.near()).copy_(mask)
        masked.own(span, owner)
        masked.stale = True

    def release(self, weight: Weight) -> None:
        """Let go of the mask of a weight: what it pruned is free from now on."""
        masked = self._masked.get(weight.parameter_name)
        if masked is None:
            return
        weight.region(masked.near()).fill_(True)
        masked.own(row_span(weight), "")
        if not masked.owners:
            del self._masked[weight.parameter_name]

    def owned(self, weight: Weight, owner: str) -> bool:
        """Whether `owner` made the mask in force of all rows of a weight."""
        masked = self._masked.get(weight.parameter_name)
        start, stop = row_span(weight)
        spans = sorted(span for span, who in masked.owners.items() if who == owner) if masked else []
        for first, last in spans:
            if first <= start < last:
                start = last
        return bool(spans) and start >= stop

    def pruned(self, weights: Iterable[Weight]) -> int:
        """Return how many elements of these weights (which do not overlap) are masked."""
        masks = (mask for weight in weights if (mask := self.of(weight)) is not None)
        return sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks)

    def replace(self, other: Masks) -> None:
        """Take the masks of another in place of all of ours."""
        self._masked = dict(other._masked)


def outside(span: Span, cut: Span) -> list[Span]:
    """Return the parts of a span that lie outside another."""
    (start, stop), (first, last) = span, cut
    parts = ((start, min(stop, first)), (max(start, last), stop))
    return [(a, b) for a, b in parts if a < b]
