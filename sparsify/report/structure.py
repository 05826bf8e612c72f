"""What died as a whole, for people and programs: sentences, data, and sections of a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sparsify.report.bars import bars
from sparsify.report.cards import cards
from sparsify.report.drawn import Maps
from sparsify.report.living import KINDS, Living
from sparsify.report.maps import drawn_maps, legend
from sparsify.report.page import Section
from sparsify.report.panels import Panel, of_card, of_maps, of_widths
from sparsify.report.punched import punched
from sparsify.report.told import sentences
from sparsify.report.widths import widths

DEAD_HEADS = "A row is a layer, a column a head; a hole is a head whose value rows, or output columns, are all zero."
SHARED = "heads over one line share a key/value head, which is dead where the line is broken"
WIDTHS = {
    "heads": "Living heads beside all heads of a layer.",
    "neurons": "Living neurons of a layer's feed-forward blocks beside all of them; a dead one has a row or a column "
    "that is all zero.",
    "channels": "Filters of a layer's convolutions that are not all zero, beside all of them.",
}
BLOCKS = (
    "A square is a matrix, whatever its sizes: rows run down, columns across. The stronger a cell's colour, the more "
    "of it is not zero."
)


@dataclass(frozen=True)
class Structure:
    """What lives of a model, and its matrices seen from afar; empty where its anatomy is not known."""

    living: Living = field(default_factory=Living)
    maps: Maps = field(default_factory=Maps)

    def facts(self) -> list[tuple[str, str]]:
        """Return (name, sentence)."""
        return sentences(self.living)

    def to_dict(self) -> dict[str, Any]:
        """Return what lives as plain data."""
        return self.living.to_dict()

    def sections(self) -> list[Section]:
        """Return drawings of that of which there is something to see."""
        found = []
        shown, note = cards(self.living)
        if shown:
            shared = SHARED if any(row.groups for card in shown for row in card.rows) else ""
            drawings = [(card.name, punched(card)) for card in shown]
            found.append(Section("Heads", _lead(DEAD_HEADS, shared, note), drawings))
        drawn = [each for kind in KINDS if (each := widths(self.living, kind)) is not None]
        found += [
            Section(f"Width: {each.kind}", _lead(WIDTHS[each.kind], each.note), [("", bars(each))]) for each in drawn
        ]
        if self.maps.maps:
            found.append(Section("Blocks", _lead(BLOCKS, *self.maps.notes), [*drawn_maps(self.maps), ("", legend())]))
        return found

    def panels(self) -> list[Panel]:
        """Return the same for a picture."""
        shown, note = cards(self.living)
        found = [of_card(card, note) for card in shown]
        bare = KINDS[1:] if shown else KINDS  # of heads, a card says all that a bar does
        found += [of_widths(each) for kind in bare if (each := widths(self.living, kind)) is not None]
        notes = "; ".join(self.maps.notes)
        return found + [of_maps(stack, maps, notes) for stack, maps in self.maps.stacks().items()]


def _lead(words: str, *notes: str) -> str:
    return " ".join([words, *(f"{note[0].upper()}{note[1:]}." for note in notes if note)])
