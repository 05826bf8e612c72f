"""Neurons: a unit of a feed-forward block, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from sparsify.anatomy import Anatomy
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.spanning import Spanning, across, with_biases


class Neuron(Spanning):
    """One group a neuron: its row of up (and gate) with biases, and its column of down.

    Source: McCarley, Chakravarti & Sil, "Structured Pruning of a BERT-based Question Answering Model" (2019).
    """

    type: Literal["neuron"] = "neuron"
    role: ClassVar[str] = "ffn"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"equal": True},)

    def blocks(self, anatomy: Anatomy) -> Iterator[Bundle]:
        for block in anatomy.feed_forwards:
            width = block.neurons
            ups = [block.up] if block.gate is None else [block.up, block.gate]
            yield Bundle(block.name, (*with_biases(ups, width), across(block.down, width)), doubt=block.doubt)
