"""Layers that hand on what they are given leave as wholes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from sparsify.anatomy import Layer, read
from sparsify.errors import CompactionError
from sparsify.layers import Weight
from sparsify.layers.outline import outline
from sparsify.structure.change import Dropped
from sparsify.structure.configs import container_of
from sparsify.structure.drop import drop, stacks
from sparsify.structure.rebuilt import misfit

Same = Callable[[nn.Module], bool]
"""Tells whether a candidate computes what the model does."""


def drop_empty(model: nn.Module, same: Same, hands_on: Callable[[str], bool]) -> tuple[tuple[str, ...], list[str]]:
    """Remove layers that add nothing from a model, in place; return their names, and why others stay.

    `hands_on` tells whether a layer, by its name, returns what it is given: outputs alone may hide that it does not.
    """
    gone: list[str] = []
    notes: list[str] = []
    for stack, layers in stacks(read(model)).items():
        empty = [layer for layer in layers if _adds_nothing(layer)]
        loose = [layer for layer in empty if not layer.fixed]
        free = [layer for layer in loose if hands_on(layer.name)]
        notes += [
            f"{layer.name} adds nothing, but stays: its norms are in the way" for layer in loose if layer not in free
        ]
        notes += [f"{layer.name} adds nothing, but stays: {layer.fixed}" for layer in empty if layer.fixed]
        kept = tuple(layer.index for layer in layers if layer not in free) or (0,)
        change = Dropped(stack, len(layers), kept)
        names = tuple(layer.name for layer in free if layer.index not in kept)
        if not names:
            continue
        if reason := misfit(model, change, container_of(layers[0])):
            notes.append(f"{', '.join(names)}: nothing is added, but they stay: {reason}")
            continue
        try:
            candidate = outline(model)
            drop(candidate, change)
            right = same(candidate)
        except (CompactionError, KeyError) as error:
            notes.append(f"{', '.join(names)}: nothing is added, but they stay: {error}")
            continue
        if right:
            drop(model, change)
            gone += names
        else:
            notes.append(f"{', '.join(names)}: nothing is added, but without them outputs differ")
    return tuple(gone), notes


def _adds_nothing(layer: Layer) -> bool:
    """Whether everything that a layer adds to what it is given is zero."""
    outputs = [block.output for block in layer.attentions] + [block.down for block in layer.feed_forwards]
    return bool(outputs) and not layer.experts and all(_zero(output) for output in outputs)


def _zero(weight: Weight) -> bool:
    bias = weight.bias()
    return not bool(weight.tensor.any()) and (bias is None or not bool(bias.tensor.any()))
