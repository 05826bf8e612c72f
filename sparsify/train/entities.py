"""Entities in tagged words, and the F1 of finding them, as CoNLL's script and seqeval count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Entity = tuple[str, int, int]
"""Kind, first word, last word."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities of a sentence tagged in IOB, IOB2 or IOBES: `B-PER I-PER O` has one.

    An `I-` that follows another kind, or nothing, begins an entity, as in CoNLL-2003.
    """
    return set(_entities(tags))


def _entities(tags: Sequence[str]) -> Iterator[Entity]:
    begun, before, part = 0, "", "O"
    for place, tag in enumerate([*tags, "O"]):
        now, _, kind = tag.partition("-")
        inside = now in ("I", "E") and kind == before and part in ("B", "I")
        if before and not inside:
            yield before, begun, place - 1
        if not inside:
            before, begun = (kind, place) if now in ("B", "I", "E", "S") and kind else ("", place)
        part = now


def scores(guessed: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return precision, recall and F1 of the entities of all sentences together (micro average).

    Where no tag names an entity (parts of speech), each word is one of the kind of its tag.
    """
    named = any(tag[:2] in ("B-", "I-", "E-", "S-") for tags in wanted for tag in tags)

    def found(sentences: Sequence[Sequence[str]]) -> set[tuple[int, Entity]]:
        return {
            (number, entity)
            for number, tags in enumerate(sentences)
            for entity in (entities(tags) if named else {(tag, place, place) for place, tag in enumerate(tags)})
        }

    mine, right = found(guessed), found(wanted)
    both = len(mine & right)
    precision, recall = both / max(len(mine), 1), both / max(len(right), 1)
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}
