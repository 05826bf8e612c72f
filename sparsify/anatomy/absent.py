"""What a family of somebody's own declares and no layer has: a slip of the pen would be silent otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparsify.anatomy.architecture import Architecture, AttentionPaths, FeedForwardPaths, foreign
from sparsify.anatomy.building import attention, feed_forwards, fits, module_at, number_at
from sparsify.errors import did_you_mean
from sparsify.layers import weights

MOST_CHOICES = 12
"""Names that are listed where none is near."""


def absent(model: nn.Module) -> list[str]:
    """Return a sentence for everything that families which are not ours declare, and no layer of the model has.

    A layer may lack a block, and a family may declare one in several ways: only what no layer has counts, and of a
    block of which no path exists only where nothing else of its kind is found. Weights are not read.
    """
    found: list[str] = []
    for family in foreign():
        layers = [module for module in model.modules() if fits(family, module)]
        if layers:
            found += dict.fromkeys(_of_family(family, layers))
    return found


def _of_family(family: Architecture, layers: Sequence[nn.Module]) -> Iterator[str]:
    kinds: tuple[tuple[AttentionPaths | FeedForwardPaths, ...], ...] = (family.attentions, family.feed_forwards)
    for declared in kinds:
        known = [paths for paths in declared if any(_has(paths, layer) for layer in layers)]
        for paths in declared:
            whole = [layer for layer in layers if _has(paths, layer)]
            slips = [list(_slips(paths, layer)) for layer in whole or layers]
            parts = len([path for path in _paths(paths) if path])
            if whole and all(slips):  # a gate
                yield _sentence(family, whole[0], slips[0])
            elif not whole and (not known or any(len(each) < parts for each in slips)):
                layer, fewest = min(zip(layers, slips, strict=True), key=lambda each: len(each[1]))
                yield _sentence(family, layer, fewest or [f"what {_paths(paths)[0]!r} and the others are do not fit"])
    for role, path in family.others:
        if not any(fnmatchcase(name, path) for layer in layers for name, _ in layer.named_modules()):
            yield f"family {family.name}: {type(layers[0]).__name__} has nothing at {path!r}, declared as {role}"


def _sentence(family: Architecture, layer: nn.Module, slips: Sequence[str]) -> str:
    return f"family {family.name}, {type(layer).__name__}: {'; '.join(slips)}: the block is not known as declared"


def _paths(paths: AttentionPaths | FeedForwardPaths) -> tuple[str, ...]:
    """Return the paths of matrices."""
    if isinstance(paths, AttentionPaths):
        return paths.output, paths.query, paths.key, paths.value, paths.fused
    return paths.down, paths.up, paths.gate, paths.fused


def _has(paths: AttentionPaths | FeedForwardPaths, layer: nn.Module) -> bool:
    """Whether a layer has the block."""
    if isinstance(paths, AttentionPaths):
        return attention(paths, "", "", layer) is not None
    return any(True for _ in feed_forwards(paths, "", layer))


def _slips(paths: AttentionPaths | FeedForwardPaths, layer: nn.Module) -> Iterator[str]:
    """Yield what of a block a layer does not have, each with what it has in that place."""
    for path in filter(None, _paths(paths)):
        place = _first(path, layer)
        module = module_at(layer, place)
        if module is None:
            yield f"there is no {path!r}{_near(layer, place)}"
        elif next(weights(place, module), None) is None:
            yield f"{path!r} has no weight of its own{_choices('', _children(module))}"
    size = (paths.head_size or paths.heads) if isinstance(paths, AttentionPaths) else ""
    if size and number_at(layer, size) is None:
        yield f"there is no number at {size!r}{_near(layer, size)}"


def _first(path: str, layer: nn.Module) -> str:
    """Return a path in which `*` is the first of what it stands for."""
    before, star, _ = path.partition("*")
    parent = module_at(layer, before.rstrip(".")) if star else None
    return path.replace("*", next(iter(_children(parent)), "*")) if parent is not None else path


def _near(layer: nn.Module, path: str) -> str:
    """Return what there is in the place of the first part of a path that does not exist."""
    at: Any = layer
    for part in path.split("."):
        if not hasattr(at, part):
            return _choices(part, [*_children(at), *_numbers(at)])
        at = getattr(at, part)
    return ""


def _choices(word: str, names: Sequence[str]) -> str:
    return did_you_mean(word, names, most=MOST_CHOICES)


def _children(module: Any) -> list[str]:
    return [name for name, _ in module.named_children()] if isinstance(module, nn.Module) else []


def _numbers(owner: Any) -> list[str]:
    """Return the attributes that are whole numbers."""
    return (
        [
            name
            for name, value in vars(owner).items()
            if isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_")
        ]
        if hasattr(owner, "__dict__")
        else []
    )
