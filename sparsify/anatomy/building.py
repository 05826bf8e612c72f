"""From a layer's module and the paths of its family to its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from operator import attrgetter
from typing import Any

from torch import nn

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths
from sparsify.anatomy.experts import find
from sparsify.anatomy.parts import Attention, FeedForward, Layer
from sparsify.anatomy.words import is_adapter
from sparsify.layers import Weight, in_use, weights

CONVS = ("conv", "shortcut")
"""Roles of convolutions alone."""

ORIGIN = "_sparsify_origin"
"""The attribute of a layer in which its number from before any layer was dropped is kept."""


def build(family: Architecture, name: str, stack: str, index: int, module: nn.Module) -> Layer:
    """Return the layer that a module is, as its family sees it. Weights are not read."""
    attentions = tuple(
        block for paths in family.attentions if (block := attention(paths, name, stack, module)) is not None
    )
    blocks = tuple(block for paths in family.feed_forwards for block in feed_forwards(paths, name, module))
    experts = tuple(find(name, module))
    held = {id(weight.parameter) for block in blocks for _, weight in block.roles()}
    members = (each for group in experts for each in group.members if id(each.down.parameter) not in held)
    blocks = (*blocks, *members)
    routers = {id(router.parameter) for group in experts for router in group.routers}
    origin = vars(module).get(ORIGIN, index)
    depths = next((fields for part, fields in family.depths if part in stack.split(".")), ("num_hidden_layers",))
    layer = Layer(name, stack, index, attentions, blocks, (), origin, depths, "", family.name, family.inferred, experts)
    taken = {id(weight.parameter) for _, weight in layer.roles()}
    others = []
    for below, part in module.named_modules():
        for weight in weights(join(name, below), part):
            if (
                id(weight.parameter) not in taken
                and weight.layout != "embedding"
                and not is_adapter(weight.parameter_name)
            ):
                convolved = weight.layout == "conv"
                known = (role for role, path in family.others if fnmatchcase(below, path))
                role = next((role for role in known if (role in CONVS) == convolved), "")
                others.append(("router" if id(weight.parameter) in routers else role, weight))
    return replace(layer, others=tuple(others), fixed=_fixed(family, index, module, others))


def fits(family: Architecture, module: nn.Module) -> bool:
    """Whether a module is a layer of a family: by its class's name, and by what it has."""
    if not is_a(module, family.layers):
        return False
    return not family.fits or any(all(hasattr(module, path) for path in paths) for paths in family.fits)


def _fixed(family: Architecture, index: int, layer: nn.Module, others: list[tuple[str, Weight]]) -> str:
    """Return why a layer cannot be removed; empty where it can."""
    if family.shared:
        return family.shared
    for rule in family.fixed:
        if rule.place in (None, index) and (not rule.attribute or number_at(layer, rule.attribute)):
            return rule.why
    found: list[tuple[str, Any]] = [(role, weight.module) for role, weight in others if weight.layout == "conv"]
    strides = any(max(each.stride) > 1 for _, each in found)
    if strides or (found and found[0][1].in_channels != found[-1][1].out_channels):
        return "changes the shape of what flows through it"
    return "has weights in its shortcut" if any(role == "shortcut" for role, _ in found) else ""


def attention(paths: AttentionPaths, name: str, stack: str, layer: nn.Module) -> Attention | None:
    """Return the attention block at these paths, or None where the layer has none of the kind."""
    output = _weight(name, layer, paths.output)
    if output is None:
        return None
    size = head_size(paths, layer, output)
    if size is None or size < 1 or output.geometry.columns % size:
        return None
    found = _packed(paths, name, layer, output, size) if paths.fused else _apart(paths, name, layer)
    if found is None:
        return None
    query, key, value = found
    groups = (value.geometry.rows // size) if query != key else _groups(query, output, size)
    heads = output.geometry.columns // size
    if groups < 1 or heads % groups:
        return None
    block = block_of(layer, paths.fused or paths.query, paths.output) or "attention"
    bound = not paths.least_in or is_a(layer, paths.least_in)
    return Attention(
        name=join(name, block),
        query=query,
        key=key,
        value=value,
        output=output,
        heads=heads,
        groups=groups,
        doubt=paths.doubt or _lent(layer, block),
        least=paths.least if bound else 0,
        shared=f"{stack}: {block}" if paths.shared else "",
    )


def _lent(layer: nn.Module, block: str) -> str:
    """Return why heads are not a block's own; empty where they are."""
    if number_at(layer, f"{block}.store_full_length_kv"):  # Gemma 3n and 4
        return "not so: layers after it use its keys and values"
    if number_at(layer, f"{block}.is_kv_shared_layer"):  # it has projections before transformers 5, but no use for them
        return "not so: it uses the keys and values of a layer before it"
    return ""


def head_size(paths: AttentionPaths, layer: nn.Module, output: Weight) -> int | None:
    """Return the features of a head, as the layer's attributes have it; None where they do not."""
    if paths.head_size:
        return number_at(layer, paths.head_size)
    heads = number_at(layer, paths.heads) if paths.heads else None
    return output.geometry.columns // heads if heads and output.geometry.columns % heads == 0 else None


def _apart(paths: AttentionPaths, name: str, layer: nn.Module) -> tuple[Weight, Weight, Weight] | None:
    query, key, value = (_weight(name, layer, path) for path in (paths.query, paths.key, paths.value))
    return (query, key, value) if query and key and value else None


def _packed(
    paths: AttentionPaths, name: str, layer: nn.Module, output: Weight, size: int
) -> tuple[Weight, Weight, Weight] | None:
    """Return query, key and value of one matrix, or of two, of which the second holds key and value."""
    whole = _weight(name, layer, paths.fused)
    if whole is None:
        return None
    rows, wide = whole.geometry.rows, output.geometry.columns
    if paths.query:
        query, half = _weight(name, layer, paths.query), rows // 2
        if query is None or query.geometry.rows != wide or rows % (2 * size):
            return None
        return query, whole.rows(0, half), whole.rows(half, rows)
    if paths.packing == "heads":
        return (whole, whole, whole) if _groups(whole, output, size) else None
    rest, odd = divmod(rows - wide, 2)
    if rest < size or odd or rest % size:
        return None
    return whole.rows(0, wide), whole.rows(wide, wide + rest), whole.rows(wide + rest, rows)


def _groups(whole: Weight, output: Weight, size: int) -> int:
    """Return how many key and value heads an interleaved matrix holds beside the query heads; 0 if it does not fit."""
    rest, odd = divmod(whole.geometry.rows - output.geometry.columns, 2 * size)
    return rest if not odd and rest > 0 else 0


def feed_forwards(paths: FeedForwardPaths, name: str, layer: nn.Module) -> Iterator[FeedForward]:
    """Yield the blocks whose paths exist, once for every module that a `*` stands for."""
    first = paths.up or paths.fused
    before, star, _ = first.partition("*")
    places = [""]
    if star:
        parent = module_at(layer, before.rstrip("."))
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
        block = before + place if star else block_of(layer, first, paths.down) or "ffn"
        yield FeedForward(join(name, block), up, down, gate, paths.doubt)


def block_of(layer: nn.Module, *paths: str) -> str:
    """Return the path of the module that holds parts and can be called: of a list, the module around it."""
    path = common(*paths)
    while path and isinstance(module_at(layer, path), (nn.ModuleList, nn.ModuleDict)):
        path = path.rpartition(".")[0]
    return path


def common(*paths: str) -> str:
    """Return what paths have in common."""
    columns = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, columns))


def _weight(name: str, layer: nn.Module, path: str) -> Weight | None:
    """Return the weight of the module at a path; where an adapter wraps it, of the module within."""
    module = module_at(layer, path) if path else None
    while module is not None and (within := in_use(module)):
        module, path = module_at(module, within), f"{path}.{within}"
    return next(weights(join(name, path), module), None) if module is not None else None


def module_at(root: nn.Module, path: str) -> nn.Module | None:
    """Return the module of a path, or None."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def number_at(root: nn.Module, path: str) -> int | None:
    """Return the whole number that an attribute holds, by its path; None where there is none."""
    try:
        return int(attrgetter(path)(root))
    except (AttributeError, TypeError, ValueError):
        return None


def is_a(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether a module's class, or a base of it, has one of these names."""
    return any(cls.__name__ in names for cls in type(module).__mro__)


def below(name: str, root: str) -> bool:
    """Whether a name lies below another."""
    return not root or name.startswith(f"{root}.")


def join(root: str, path: str) -> str:
    """Return a dotted name of two parts, either of which may be empty."""
    return f"{root}.{path}" if root and path else root or path
