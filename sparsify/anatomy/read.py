"""From a model to its anatomy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from sparsify.anatomy.architecture import Architecture, architectures
from sparsify.anatomy.building import below, build, fits
from sparsify.anatomy.infer import Inference
from sparsify.anatomy.outside import sort_outside
from sparsify.anatomy.parts import Anatomy, Layer
from sparsify.anatomy.repeated import elements
from sparsify.anatomy.unlayered import unlayered
from sparsify.layers import Weight, all_weights, plain

Found = tuple[str, Architecture, Layer]
"""The module's name, its family, and the layer."""


def read(model: nn.Module) -> Anatomy | None:
    """Return the parts of a model (weights are not read; the meta device will do), or None if it has no matrix.

    A family is recognised by the class names of its layers, so that a model may hold a known one anywhere. What no
    family claims is inferred: elements of repeated containers are layers, and their blocks are tried (see `infer`).
    """
    found = _layers(model)
    if not found:
        return unlayered(model)
    layers = tuple(layer for _, _, layer in found)
    inside = {id(weight.parameter) for layer in layers for _, weight in layer.roles()}
    rest = [weight for weight in all_weights(model, embeddings=True) if id(weight.parameter) not in inside]
    homes = tuple(name for _, family, _ in found for name in family.embeddings)
    outside = sort_outside(model, rest, [name for name, _, _ in found], homes)
    return Anatomy(
        layers=layers,
        embeddings=outside.embeddings,
        task_head=outside.task_head,
        between=outside.between,
    )


def inferred(model: nn.Module) -> list[Architecture]:
    """Return the families that are inferred for a model, each once, in the model's order."""
    return list(dict.fromkeys(family for _, family, _ in _layers(model) if family.inferred))


def _layers(model: nn.Module) -> list[Found]:
    """Return declared layers and inferred ones, in the model's order; what lies in an inner one is its alone."""
    found = list(_declared(model))
    names = {name for name, _, _ in found}
    rest = list(elements(model, names.__contains__))
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    taken = {id(weight.parameter) for _, _, layer in found for _, weight in layer.roles()}
    counts: dict[str, int] = {}
    for (stack, name, module), family in zip(rest, Inference(model).families(rest, names), strict=True):
        outer = plain(f"{stack}.").removesuffix(".")
        layer = _without(build(family, name, outer, counts.get(stack, -1) + 1, module), taken)
        if any(True for _ in layer.roles()):
            counts[stack] = layer.index
            taken |= {id(weight.parameter) for _, weight in layer.roles()}
            found.append((name, family, layer))
    return sorted(found, key=lambda each: order[each[0]])


def _without(layer: Layer, taken: set[int]) -> Layer:
    """Return a layer without what is already part of others: of blocks that several layers share, too."""

    def new(*weights: Weight) -> bool:
        return all(id(weight.parameter) not in taken for weight in weights)

    return replace(
        layer,
        attentions=tuple(block for block in layer.attentions if new(*block.projections, block.output)),
        feed_forwards=tuple(block for block in layer.feed_forwards if new(*(weight for _, weight in block.roles()))),
        experts=tuple(each for each in layer.experts if new(*each.stacks, *each.routers)),
        others=tuple((role, weight) for role, weight in layer.others if new(weight)),
    )


def _declared(model: nn.Module) -> Iterator[Found]:
    counts: dict[str, int] = {}
    outers: list[str] = []
    known = list(architectures())
    for name, module in model.named_modules():
        family = next((family for family in known if fits(family, module)), None)
        if family is None or any(below(name, outer) for outer in outers):
            continue
        outer = plain(f"{name}.").removesuffix(".")  # a layer that was compiled by itself lies one name deeper
        stack = outer.rpartition(".")[0] if family.stacked else family.name
        layer = build(family, name, stack, counts.get(stack, -1) + 1, module)
        if any(role for role, _ in layer.roles()):  # else it only has the name in common
            counts[stack] = layer.index
            outers.append(name)
            yield name, family, layer
