"""The sparsity asked for now, comparable with the sparsity that is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparsify.layers import Weight, row_span
from sparsify.masking.masks import Masks, Span, outside
from sparsify.modifiers.contract import Wanted


def sparsity_wanted(wanted: Iterable[Wanted], masks: Masks, targeted: Sequence[Weight]) -> float | None:
    """Return the fraction of the targeted weights that should be zero; None where nothing is wanted.

    Of rows that several want, the first counts; weights that nobody wants anything of count as they are.
    """
    taken: dict[int, list[Span]] = {}
    zeros, asked = 0.0, False
    for each in wanted:
        elements = sum(weight.geometry.elements for weight in each.weights)
        fresh = sum(_take(weight, taken) for weight in each.weights)
        zeros += each.zeros * fresh / max(elements, 1)
        asked = True
    elements = sum(weight.geometry.elements for weight in targeted)
    if not asked or not elements:
        return None
    for weight in targeted:
        zeros += sum(masks.pruned(weight.whole.pieces(*span)) for span in _free(weight, taken))
    return zeros / elements


def _take(weight: Weight, taken: dict[int, list[Span]]) -> int:
    """Take the rows of a weight that are free; return how many elements they have."""
    free = _free(weight, taken)
    taken.setdefault(id(weight.parameter), []).extend(free)
    start, stop = row_span(weight)
    return sum(last - first for first, last in free) * weight.geometry.elements // max(stop - start, 1)


def _free(weight: Weight, taken: dict[int, list[Span]]) -> list[Span]:
    free = [row_span(weight)]
    for span in taken.get(id(weight.parameter), ()):
        free = [part for old in free for part in outside(old, span)]
    return free
