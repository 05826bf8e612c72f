"""Heads: an attention head as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from sparsify.anatomy import Anatomy, Attention
from sparsify.patterns.bundle import Bundle, Part
from sparsify.patterns.spanning import Spanning, across, with_biases


class Head(Spanning):
    """One group a head: its rows of query, key and value with biases, and its columns of output.

    With grouped queries (fewer key and value heads), `grouped: whole` takes a key and value head with all its
    queries; `grouped: quota` takes one query head from every group, the lowest first, and leaves key and
    value. Where an architecture can only lose the same heads in every layer (T5), a group is a head of all.
    Source: Michel, Levy & Neubig, "Are Sixteen Heads Really Better than One?" (2019), for the structure.
    """

    type: Literal["head"] = "head"
    role: ClassVar[str] = "attention"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"grouped": "quota"}, {"equal": True})

    grouped: Literal["whole", "quota"] = "whole"
    """What a group is with grouped-query attention."""

    def label(self) -> str:
        return super().label() + (" (a quota of every group)" if self.grouped == "quota" else "")

    def blocks(self, anatomy: Anatomy) -> Iterator[Bundle]:
        together: dict[str, list[Attention]] = {}
        for block in anatomy.attentions:
            together.setdefault(block.shared or block.name, []).append(block)
        for name, blocks in together.items():
            first = blocks[0]
            quota = self.grouped == "quota" and first.groups < first.heads and not first.interleaved
            parts = tuple(part for block in blocks for part in (_queries(block) if quota else _whole(block)))
            yield Bundle(name, parts, first.least, first.doubt, quota=first.groups if quota else 1)


def _whole(block: Attention) -> list[Part]:
    groups = block.groups
    return [*with_biases(block.projections, groups), across(block.output, groups)]


def _queries(block: Attention) -> list[Part]:
    return [*with_biases((block.query,), block.heads), across(block.output, block.heads)]
