"""What an order of channels is worth to N:M, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Kept:
    """How much of the magnitudes of some weights N:M masks keep."""

    magnitude: float
    """The sum of all magnitudes."""

    before: float
    """What a mask of the weights in their first order keeps of it."""

    after: float

    @property
    def shares(self) -> tuple[float, float]:
        """Before and after, as parts of all; 1 where there is nothing."""
        return (self.before / self.magnitude, self.after / self.magnitude) if self.magnitude else (1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the sums and both shares."""
        before, after = self.shares
        return {**asdict(self), "before_share": before, "after_share": after}

    @classmethod
    def total(cls, parts: Iterable[Kept]) -> Kept:
        """Return all of them together."""
        every = list(parts)
        return cls(sum(p.magnitude for p in every), sum(p.before for p in every), sum(p.after for p in every))


@dataclass(frozen=True)
class BlockKept(Kept):
    """A block: what is kept of the matrix whose columns have another order (down, or output)."""

    block: str = ""
    weight: str = ""
    orders: tuple[tuple[int, ...], ...] = ()
    """Of its neurons, or of the features within each key and value head: what stood at `order[i]` is at place i."""

    @property
    def moved(self) -> int:
        """How many columns stand elsewhere than before, counted once for heads that share their order."""
        return sum(place != source for order in self.orders for place, source in enumerate(order))


@dataclass(frozen=True)
class Permuted:
    """What a change of order gave."""

    n: int
    m: int
    blocks: tuple[BlockKept, ...]
    model: Kept
    """All weights that `targets: default` means and m fits: the order of most of them cannot change."""

    difference: float
    """Of the outputs, relative to their largest value."""

    seconds: float
    in_time: bool
    """Whether every search ended by itself: then one seed gives one result on one machine."""

    notes: tuple[str, ...]
    """Why blocks stay as they are."""

    @property
    def total(self) -> Kept:
        """All blocks together."""
        return Kept.total(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "pattern": f"{self.n}:{self.m}",
            "blocks": [
                {"block": b.block, "weight": b.weight, "moved": b.moved, **Kept.to_dict(b), "orders": b.orders}
                for b in self.blocks
            ],
            "total": self.total.to_dict(),
            "model": self.model.to_dict(),
            "difference": self.difference,
            "seconds": self.seconds,
            "in_time": self.in_time,
            "notes": list(self.notes),
        }
