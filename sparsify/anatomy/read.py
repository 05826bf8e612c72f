"""From a model to its anatomy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from operator import attrgetter
from typing import Any

from torch import nn

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, architectures
from sparsify.anatomy.experts import find
from sparsify.anatomy.parts import Anatomy, Attention, FeedForward, Layer
from sparsify.layers import Weight, all_weights, plain, weights

ORIGIN = "_sparsify_origin"
"""The attribute of a layer in which its number from before any layer was dropped is kept."""


def read(model: nn.Module) -> Anatomy | None:
    """Return the parts of a model (weights are not read; the meta device will do), or None if it is unknown.

    A family is recognised by the class names of its layers, so that a model may hold a known one anywhere.
    """
    found = list(_layers(model))
    if not found:
        return None
    layers = tuple(layer for _, layer in found)
    inside = {id(weight.parameter) for layer in layers for _, weight in layer.roles()}
    outside = [
        weight
        for weight in all_weights(model, embeddings=True)
        if id(weight.parameter) not in inside and not any(_below(weight.name, layer.name) for layer in layers)
    ]
    homes = tuple(name for family, _ in found for name in family.embeddings)
    tables = {
        id(parameter)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or _is_home(name, module, homes)
        for parameter in module.parameters()
    }
    embeddings = [weight for weight in outside if id(weight.parameter) in tables or weight.layout == "conv"]
    head = [weight for weight in outside if weight.layout == "linear" and not _in_a_home(weight, model, homes)]
    return Anatomy(
        families=tuple(sorted({family.name for family, _ in found})),
        layers=layers,
        embeddings=tuple(embeddings),
        task_head=tuple(head),
    )


def _layers(model: nn.Module) -> Iterator[tuple[Architecture, Layer]]:
    counts: dict[str, int] = {}
    outers: list[str] = []
    known = list(architectures())
    for name, module in model.named_modules():
        family = next((family for family in known if _is_a(module, family.layers)), None)
        if family is None or any(_below(name, outer) for outer in outers):
            continue
        outer = plain(f"{name}.").removesuffix(".")  # a layer that was compiled by itself lies one name deeper
        stack = outer.rpartition(".")[0] if family.stacked else family.name
        layer = _layer(family, name, stack, counts.get(stack, -1) + 1, module)
        if any(role for role, _ in layer.roles()):  # else it only has the name in common
            counts[stack] = layer.index
            outers.append(name)
            yield family, layer


def _layer(family: Architecture, name: str, stack: str, index: int, module: nn.Module) -> Layer:
    attentions = tuple(
        block for paths in family.attentions if (block := _attention(paths, name, stack, module)) is not None
    )
    feed_forwards = tuple(block for paths in family.feed_forwards for block in _feed_forwards(paths, name, module))
    experts = tuple(find(name, module))
    known = {id(weight.parameter) for block in feed_forwards for _, weight in block.roles()}
    members = (each for group in experts for each in group.members if id(each.down.parameter) not in known)
    feed_forwards = (*feed_forwards, *members)
    routers = {id(router.parameter) for group in experts for router in group.routers}
    origin = vars(module).get(ORIGIN, index)
    depths = next((fields for part, fields in family.depths if part in stack.split(".")), ("num_hidden_layers",))
    blocks = Layer(name, stack, index, attentions, feed_forwards, (), origin, depths, experts=experts)
    taken = {id(weight.parameter) for _, weight in blocks.roles()}
    others = []
    for below, part in module.named_modules():
        for weight in weights(_join(name, below), part):
            if id(weight.parameter) not in taken and weight.layout != "embedding":
                role = next((role for role, path in family.others if fnmatchcase(below, path)), "")
                role = role if weight.layout == "conv" else ""
                others.append(("router" if id(weight.parameter) in routers else role, weight))
    return replace(blocks, others=tuple(others), fixed=_fixed(family, index, module, others))


def _fixed(family: Architecture, index: int, layer: nn.Module, others: list[tuple[str, Weight]]) -> str:
    """Return why a layer cannot be removed; empty where it can."""
    if family.shared:
        return family.shared
    for rule in family.fixed:
        if rule.place in (None, index) and (not rule.attribute or _attribute(layer, rule.attribute)):
            return rule.why
    found: list[tuple[str, Any]] = [(role, weight.module) for role, weight in others if weight.layout == "conv"]
    strides = any(max(each.stride) > 1 for _, each in found)
    if strides or (found and found[0][1].in_channels != found[-1][1].out_channels):
        return "changes the shape of what flows through it"
    return "has weights in its shortcut" if any(role == "shortcut" for role, _ in found) else ""


def _attention(paths: AttentionPaths, name: str, stack: str, layer: nn.Module) -> Attention | None:
    output = _weight(name, layer, paths.output)
    if output is None:
        return None
    if paths.fused:
        whole = _weight(name, layer, paths.fused)
        if whole is None or whole.geometry.rows != 3 * output.geometry.columns:
            return None
        third = whole.geometry.rows // 3
        query, key, value = (whole.rows(part * third, (part + 1) * third) for part in range(3))
    else:
        found = [_weight(name, layer, path) for path in (paths.query, paths.key, paths.value)]
        if None in found:
            return None
        query, key, value = (weight for weight in found if weight is not None)
    head_size = _attribute(layer, paths.head_size)
    if head_size is None:
        return None
    block = _common(paths.fused or paths.query, paths.output) or "attention"
    bound = not paths.least_in or _is_a(layer, paths.least_in)
    return Attention(
        name=_join(name, block),
        query=query,
        key=key,
        value=value,
        output=output,
        head_size=head_size,
        least=paths.least if bound else 0,
        shared=f"{stack}: {block}" if paths.shared else "",
    )


def _common(one: str, other: str) -> str:
    """Return the path of a block: what its parts' paths have in common."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return ".".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _feed_forwards(paths: FeedForwardPaths, name: str, layer: nn.Module) -> Iterator[FeedForward]:
    """Yield the blocks whose paths exist, once for every module that a `*` stands for."""
    first = paths.up or paths.fused
    before, star, _ = first.partition("*")
    places = [""]
    if star:
        parent = _module(layer, before.rstrip("."))
        places = [child for child, _ in parent.named_children()] if parent is not None else []
    for place in places:
        up, down, gate = (_weight(name, layer, path.replace("*", place)) for path in (first, paths.down, paths.gate))
        if up is None or down is None:
            continue
        if paths.fused:
            half = down.geometry.columns
            if up.geometry.rows != 2 * half:
                continue
            gate, up = up.rows(0, half), up.rows(half, 2 * half)
        block = before + place if star else _common(first, paths.down) or "ffn"
        yield FeedForward(_join(name, block), up, down, gate)


def _weight(name: str, layer: nn.Module, path: str) -> Weight | None:
    module = _module(layer, path) if path else None
    return next(weights(_join(name, path), module), None) if module is not None else None


def _module(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _attribute(root: nn.Module, path: str) -> int | None:
    try:
        return int(attrgetter(path)(root))
    except (AttributeError, TypeError):
        return None


def _is_a(module: nn.Module, names: tuple[str, ...]) -> bool:
    return any(cls.__name__ in names for cls in type(module).__mro__)


def _in_a_home(weight: Weight, model: nn.Module, homes: tuple[str, ...]) -> bool:
    parts = weight.name.split(".")
    names = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return any(_is_home(name, model.get_submodule(name), homes) for name in names)


def _is_home(name: str, module: nn.Module, homes: tuple[str, ...]) -> bool:
    return _is_a(module, homes) or name.rpartition(".")[2] in homes


def _below(name: str, root: str) -> bool:
    return not root or name.startswith(f"{root}.")


def _join(root: str, path: str) -> str:
    return f"{root}.{path}" if root and path else root or path
