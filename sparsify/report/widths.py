"""How wide every layer still is: living units beside all of them, added up over its blocks."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify.report.living import Kind, Living, Units
from sparsify.report.spread import left_out, spread

MOST_BARS = 64
"""Layers that are drawn of a model, for each kind of units."""

MOST_BLOCKS = 4
"""Blocks of a layer that a hint names."""


@dataclass(frozen=True)
class Width:
    """A layer's units of one kind."""

    layer: str
    alive: int
    total: int
    """Of the file, and gone from it."""

    hint: str


@dataclass(frozen=True)
class Widths:
    """All layers that are drawn, of one kind of units."""

    kind: Kind
    layers: tuple[Width, ...]
    note: str

    @property
    def most(self) -> int:
        """The units of the widest layer."""
        return max((each.total for each in self.layers), default=0)


def widths(living: Living, kind: Kind) -> Widths | None:
    """Return the widths of a model's layers; None where all units of the kind live, and layers are equally wide."""
    if not living.told(kind):
        return None
    layers: dict[str, list[Units]] = {}
    for each in living.of(kind):
        layers.setdefault(each.layer, []).append(each)
    every = list(layers.items())
    shown = spread(every, MOST_BARS)
    found = tuple(_width(kind, layer, blocks) for layer, blocks in shown)
    return Widths(kind, found, left_out(len(shown), len(every), "layers"))


def _width(kind: Kind, layer: str, blocks: list[Units]) -> Width:
    alive, total = sum(each.alive for each in blocks), sum(each.before for each in blocks)
    hint = f"layer {layer}: {alive:,} of {total:,} {kind} alive"
    if len(blocks) > 1:
        parts = [f"{each.block} {each.alive:,} of {each.before:,}" for each in blocks[:MOST_BLOCKS]]
        more = f", … ({len(blocks)} blocks)" if len(blocks) > MOST_BLOCKS else ""
        hint += f": {', '.join(parts)}{more}"
    return Width(layer, alive, total, hint)
