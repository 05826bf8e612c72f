"""Repeated containers: where the layers of a model lie that no family claims."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from torch import nn

from sparsify.anatomy.words import is_outside
from sparsify.layers import Weight, in_use, weights

PARALLEL = re.compile(r"experts?|heads?|branch(es)?|adapters?|scales?", re.IGNORECASE)
"""Names of containers whose elements stand beside each other within a layer, not one after another."""

Element = tuple[str, str, nn.Module]
"""The container's name, the element's name, and the element."""


def elements(model: nn.Module, claimed: Callable[[str], bool] = lambda name: False) -> Iterator[Element]:
    """Yield every layer that repeats, in the model's order; modules whose name is `claimed` are passed over.

    What repeats are the elements of a ModuleList, or of a Sequential, ModuleDict or numbered children that share a
    class (or few classes). Of nested containers, as of stages that hold blocks, the inner elements are the layers where
    they hold most of an outer element's weights; the outer one follows them, for what it has beside them.
    """
    yield from _walk("", model, claimed, set(), nested=False)


def _walk(
    name: str, module: nn.Module, claimed: Callable[[str], bool], seen: set[int], nested: bool
) -> Iterator[Element]:
    """Yield the layers of a module; what was `seen` under another name (a shared one) is passed over."""
    if id(module) in seen:
        return
    seen.add(id(module))
    if claimed(name) or (name and is_outside(name.rpartition(".")[2])):
        return
    found = dict(_repeated(module, nested))
    for child, part in module.named_children():
        path = f"{name}.{child}" if name else child
        if child not in found:
            yield from _walk(path, part, claimed, seen, nested)
        elif not claimed(path) and id(part) not in seen:
            if not _is_layer(part):
                yield from _walk(path, part, claimed, seen, nested=True)
            seen.add(id(part))
            yield name, path, part


def _repeated(container: nn.Module, nested: bool) -> list[tuple[str, nn.Module]]:
    """Return the elements of a container that repeat, by name; empty where it is none.

    Elements are modules of several modules: a list of single matrices, with adapters or without, is no stack of layers.
    A ModuleList within a layer repeats only where its elements share a class (T5 keeps its two blocks in one).
    """
    whole = [
        (name, part)
        for name, part in container.named_children()
        if part._modules and not in_use(part) and any(True for _ in own(part))
    ]
    listed = isinstance(container, nn.ModuleList)
    if not whole:
        return []
    if not (listed or isinstance(container, nn.Sequential | nn.ModuleDict) or _numbered(whole)):
        return [] if nested else _series(whole)
    kinds = Counter(type(part) for _, part in whole)
    if len(whole) == 1:
        return whole if listed or (_count(whole[0][1]) > 1 and not isinstance(whole[0][1], nn.Sequential)) else []
    if max(kinds.values()) < 2 and (nested or not listed):
        return []
    while not listed and kinds[type(whole[-1][1])] == 1:  # what ends a sequence is its head
        whole.pop()
    return whole


def _series(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Return those of several children whose names differ in a number and a letter (`Mixed_5b`, `Mixed_5c`).

    Three make a series, and two of them must share a class; what has a single matrix is a step on the way to them.
    """
    stems = {name: re.sub(r"\d+[a-z]?$", "", name) for name, part in children if _count(part) > 1}
    counts = Counter(stems.values())
    found = [(name, part) for name, part in children if name in stems and counts[stems[name]] > 2]
    kinds = Counter((stems[name], type(part)) for name, part in found)
    shared = {stem for (stem, _), count in kinds.items() if count > 1}
    return [(name, part) for name, part in found if stems[name] in shared and stems[name] != name]


def _numbered(children: list[tuple[str, nn.Module]]) -> bool:
    """Whether names differ in their numbers alone (`denselayer1`, `denselayer2`)."""
    return len(children) > 1 and len({re.sub(r"\d+", "", name) for name, _ in children}) == 1


def _is_layer(element: nn.Module) -> bool:
    """Whether an element is a layer, rather than a stage: its own containers hold little, or single matrices."""
    return 2 * _inside(element) <= sum(weight.parameter.numel() for weight in own(element))


def _inside(module: nn.Module) -> int:
    """Return how many weights lie in the outermost repeated containers of a module whose elements may be layers."""
    found = _repeated(module, nested=True)
    if sum(_count(part) for _, part in found) >= 2 * len(found) > 0:
        return sum(weight.parameter.numel() for _, part in found for weight in own(part))
    return sum(_inside(part) for name, part in module.named_children() if not PARALLEL.fullmatch(name))


def _count(module: nn.Module) -> int:
    return sum(1 for _ in own(module))


def own(module: nn.Module) -> Iterator[Weight]:
    """Yield the weights of a module and everything in it, without tables of embeddings."""
    for name, part in module.named_modules():
        yield from (weight for weight in weights(name, part) if weight.layout != "embedding")
