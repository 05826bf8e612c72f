"""Which matrices are drawn as maps of blocks: those of attention and feed-forward blocks, a bounded number of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsify.anatomy import Anatomy, Layer
from sparsify.layers import Weight
from sparsify.report.cells import Cells
from sparsify.report.labels import Block, block_labels, layer_labels, short_stacks
from sparsify.report.spread import left_out, spread
from sparsify.report.trace import Trace

MOST_MAPS, MOST_ACROSS, MOST_DOWN = 144, 12, 24
"""Maps of a report, of one layer, and layers."""


@dataclass(frozen=True)
class Place:
    """Where a map is drawn: the row of a layer, the column of a block's role."""

    stack: str
    layer: str
    block: str
    role: str

    @property
    def column(self) -> tuple[str, str]:
        """What it shares with the maps above and below."""
        return self.block, self.role

    @property
    def short_role(self) -> str:
        """The role without its group: `query`."""
        return self.role.rpartition(".")[2]

    def __str__(self) -> str:
        return f"layer {self.layer} {f'{self.block} ' if self.block else ''}{self.short_role}"


@dataclass(frozen=True)
class Maps:
    """The maps of a model; empty where nothing of them is zero."""

    maps: tuple[tuple[Place, Cells], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def stacks(self) -> dict[str, list[tuple[Place, Cells]]]:
        """Return the maps by stack."""
        found: dict[str, list[tuple[Place, Cells]]] = {}
        for place, cells in self.maps:
            found.setdefault(place.stack, []).append((place, cells))
        return found


@dataclass(frozen=True)
class Chosen:
    """Which matrices are drawn where, decided before any is read."""

    places: tuple[tuple[Place, Weight], ...] = ()
    notes: tuple[str, ...] = ()

    def maps(self, traces: dict[str, Trace]) -> Maps:
        """Return the maps of those that were read; none where all of them are dense."""
        found = []
        for place, weight in self.places:
            traced = traces.get(weight.name)
            if traced is not None and traced.cells is not None:
                found.append((place, traced.cells))
        sparse = any(bool((cells.counts < cells.elements()).any()) for _, cells in found)
        return Maps(tuple(found), self.notes) if sparse else Maps()


def choose(anatomy: Anatomy) -> Chosen:
    """Return the matrices to draw: of layers evenly spaced if there are many, the first of layers with many."""
    labels, short = layer_labels(anatomy.layers), short_stacks(layer.stack for layer in anatomy.layers)
    by_layer = [(layer, found) for layer in anatomy.layers if (found := _matrices(layer))]
    most = max((len(found) for _, found in by_layer), default=1)
    across = min(most, MOST_ACROSS)
    shown = spread(by_layer, min(MOST_MAPS // across, MOST_DOWN))
    notes = [left_out(len(shown), len(by_layer), "layers")]
    if most > across:
        notes.append(f"the first {across} of up to {most} matrices of a layer are drawn")
    places = [
        (Place(short[layer.stack], labels[layer.name], block, role), weight)
        for layer, found in shown
        for block, role, weight in found[:across]
    ]
    return Chosen(tuple(places), tuple(filter(None, notes)))


def _matrices(layer: Layer) -> list[tuple[str, str, Weight]]:
    """Return (block, role, weight) of attention and feed-forward blocks, but for those of width 0."""
    named: list[tuple[str, Block]] = list(zip(block_labels(layer, layer.attentions), layer.attentions, strict=True))
    named += zip(block_labels(layer, layer.feed_forwards), layer.feed_forwards, strict=True)
    every = [(name, role, weight) for name, block in named for role, weight in block.roles()]
    return [each for each in every if each[2].geometry.elements]
