"""Whether stock transformers loads a smaller model: its configuration is made to say its widths, where it can."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from sparsify.anatomy import Attention, read
from sparsify.compaction.units import Unit
from sparsify.structure.configs import configs, is_configured
from sparsify.structure.loadable import (
    GROUPS,
    HEADS,
    NEURONS,
    RATIOS,
    SIZES,
    Edit,
    edits,
    groups_of,
    heads_of,
    neurons_of,
    one,
)
from sparsify.structure.rebuilt import make
from sparsify.widths import Widths

How = Literal["stock", "sparsify", "python"]


@dataclass(frozen=True)
class Loading:
    """How a smaller model is loaded from a folder."""

    how: How
    """`stock`: by transformers' own `from_pretrained`, in a process without us; `sparsify`: by `sparsify.load`, or the
    loader of thirty lines in the documentation; `python`: into a model that was made the same way."""

    why: str
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What its configuration says differently: (before, afterwards)."""

    per_layer: dict[int, dict[str, int]] = field(default_factory=dict)
    """Widths that differ between layers, by layer, in transformers' own words."""


def fit_config(model: nn.Module, smaller: Any) -> Loading:
    """Have the configuration of a smaller model say its widths, in place, where it can; return how it loads."""
    if not is_configured(smaller):
        return Loading("python", "it is no model of transformers: load its weights into a model that you make")
    try:
        mine: Any = model
        by_hand = Widths.between(mine, make(mine, mine.config)) or Widths()
        left = _left(smaller, by_hand)
    except Exception:  # whatever a class of the user's own wants beside a configuration
        return Loading("python", "no model can be made of its configuration alone")
    if left is None:
        return Loading("python", "its modules are not those that its configuration makes")
    if not left:
        return Loading("stock", "its configuration says all of it")
    before = copy.deepcopy(smaller.config.to_dict())
    for some in _edits(model, smaller):
        rest = _left_with(smaller, some, by_hand)
        if rest is not None and len(rest.tensors) < len(left.tensors):
            left = rest
            if not rest:
                return Loading("stock", "its configuration says all of it", _changed(before, smaller.config.to_dict()))
    changed = _changed(before, smaller.config.to_dict())
    return Loading("sparsify", _why(smaller, left), changed, per_layer(smaller))


def _left(smaller: Any, known: Widths) -> Widths | None:
    """Return what its configuration does not say of a smaller model; None where that is more than widths."""
    found = Widths.between(smaller, make(smaller, smaller.config))
    return None if found is None else found.without(known)


def _left_with(smaller: Any, some: list[Edit], known: Widths) -> Widths | None:
    """Return what a configuration does not say with some edits; None, and as before, where it does not say more."""
    before = _left(smaller, known)
    undo = [(config, name, name in vars(config), vars(config).get(name)) for config, name, _ in some]
    left = None
    try:
        for config, name, value in some:
            setattr(config, name, value)
        left = _left(smaller, known)
    except Exception:  # whatever a configuration does that cannot be
        left = None
    if left is None or before is None or not _better(left, before):
        for config, name, there, value in reversed(undo):
            if there:
                setattr(config, name, value)
            else:
                config.__dict__.pop(name, None)
        return None
    return left


def _better(left: Widths, before: Widths) -> bool:
    """Whether a configuration says more: less is left, and nothing of it is new."""
    return (
        set(left.tensors) < set(before.tensors)
        and all(left.tensors[name] == before.tensors[name] for name in left.tensors)
        and set(left.attributes) <= set(before.attributes)
        and all(
            dict(left.attributes[name]).items() <= dict(before.attributes[name]).items() for name in left.attributes
        )
    )


def _edits(model: nn.Module, smaller: nn.Module) -> Iterator[list[Edit]]:
    """Yield sets of edits that may say the widths of a model: all, those of neurons, each field, those of heads."""
    old, new = read(model), read(smaller)
    if old is None or new is None:
        return
    found = list(configs(smaller, ""))
    size = one([block.head_size for block in new.attentions])
    widths = [(NEURONS, neurons_of), (HEADS, heads_of), (GROUPS, groups_of)]
    neurons, *both = [
        [edit for config in found for edit in edits(config, names, one(each(old)), one(each(new)))]
        for names, each in widths
    ]
    heads = [edit for some in both for edit in some]
    said = [(config, name, size) for config in found for name in SIZES if hasattr(config, name) and size and heads]
    forced = [(config, "head_dim", size) for config in found if size and heads]
    for some in (heads + said, heads + forced):
        yield neurons + some
    yield neurons
    yield from ([edit] for edit in neurons)
    for some in (heads + said, heads + forced):
        yield some


def say_heads(model: nn.Module, smaller: nn.Module, units: Iterable[Unit]) -> None:
    """Have the configuration of a smaller model say how many heads it has, where all its blocks have as many."""
    old = read(model)
    blocks = [(unit.block, unit.alive) for unit in units if isinstance(unit.block, Attention)]
    grids = [alive.view(block.groups, -1) for block, alive in blocks if isinstance(block, Attention)]
    size = one([block.head_size for block, _ in blocks if isinstance(block, Attention)])
    if old is None or size is None:
        return
    heads, groups = [int(grid.sum()) for grid in grids], [int(grid.any(1).sum()) for grid in grids]
    for config in list(configs(smaller, "")):
        for names, before, after in ((HEADS, heads_of(old), heads), (GROUPS, groups_of(old), groups)):
            for _, name, value in list(edits(config, names, one(before), one(after))):
                setattr(config, name, value)
                config.head_dim = size


def _why(smaller: nn.Module, left: Widths) -> str:
    if left.experts:
        return "experts are gone, among which its routers still choose"
    new = read(smaller)
    if new is not None and any(
        one(numbers) is None for numbers in (neurons_of(new), heads_of(new), groups_of(new)) if numbers
    ):
        return "its layers differ in width, which its configuration cannot say"
    name = next(iter((*left.attributes, *left.tensors)))
    return f"its configuration cannot say the width of {name}"


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (before.get(name), after.get(name)) for name in {**before, **after} if before.get(name) != after.get(name)
    }


def per_layer(smaller: Any) -> dict[int, dict[str, int]]:
    """Return the widths of layers that differ from what the configuration says, in its own words, where it has some."""
    new, config = read(smaller), smaller.config
    if new is None or len({layer.stack for layer in new.layers}) != 1:
        return {}
    if any(len(layer.attentions) > 1 or len(layer.feed_forwards) > 1 for layer in new.layers):
        return {}
    free = any(hasattr(config, name) for name in SIZES)
    found: dict[int, dict[str, int]] = {}
    for layer in new.layers:
        mine: dict[str, int] = {}
        for block in layer.feed_forwards:
            mine |= _said(config, NEURONS, block.neurons)
        for attention in layer.attentions if free else ():
            mine |= {**_said(config, HEADS, attention.heads), **_said(config, GROUPS, attention.groups)}
        if mine:
            found[layer.index] = mine
    return found


def _said(config: Any, names: tuple[str, ...], width: int) -> dict[str, int]:
    """Return the field of a width with its value, where the configuration says another."""
    name = next((name for name in names if type(getattr(config, name, None)) is int and name not in RATIOS), None)
    return {} if name is None or getattr(config, name) == width else {name: width}
