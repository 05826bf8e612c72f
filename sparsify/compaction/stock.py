"""Whether stock transformers loads a smaller model: its configuration is made to say its widths, where it can."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from sparsify.anatomy import Anatomy, Attention, read
from sparsify.compaction.units import Unit
from sparsify.structure.configs import configs
from sparsify.structure.rebuilt import make
from sparsify.widths import Widths

NEURONS = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim",
           "d_inner", "ffn_hidden_size", "mlp_dim", "moe_intermediate_size", "shared_expert_intermediate_size",
           "dim_feedforward", "mlp_ratio", "expansion_ratio")  # fmt: skip
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads",
         "attention_heads")  # fmt: skip
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
SIZES = ("head_dim", "d_kv", "attention_head_dim")
"""Fields that hold the features of a head, where a configuration has them."""

RATIOS = ("mlp_ratio", "expansion_ratio")

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
    config = vars(smaller).get("config")
    if not callable(getattr(config, "to_dict", None)) or not callable(getattr(smaller, "save_pretrained", None)):
        return Loading("python", "it is no model of transformers: load its weights into a model that you make")
    try:
        left = Widths.between(smaller, make(smaller, config))
    except Exception:  # whatever a class of the user's own wants beside a configuration
        return Loading("python", "no model can be made of its configuration alone")
    if left is None:
        return Loading("python", "its modules are not those that its configuration makes")
    if not left:
        return Loading("stock", "its configuration says all of it")
    before = copy.deepcopy(config.to_dict())
    for edits in _edits(model, smaller):
        rest = _left_with(smaller, edits)
        if rest is not None and len(rest.tensors) < len(left.tensors):
            left = rest
            if not rest:
                return Loading("stock", "its configuration says all of it", _changed(before, smaller.config.to_dict()))
    changed = _changed(before, smaller.config.to_dict())
    return Loading("sparsify", _why(smaller, left), changed, per_layer(smaller))


Edit = tuple[Any, str, Any]
"""A configuration, a field, a value."""


def _left_with(smaller: Any, edits: list[Edit]) -> Widths | None:
    """Return what a configuration does not say with these edits; None, and as before, where it does not say more."""
    before = Widths.between(smaller, make(smaller, smaller.config))
    undo = [(config, name, name in vars(config), vars(config).get(name)) for config, name, _ in edits]
    left = None
    try:
        for config, name, value in edits:
            setattr(config, name, value)
        left = Widths.between(smaller, make(smaller, smaller.config))
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
    size = _one([block.head_size for block in new.attentions])
    neurons = [
        (config, name, value)
        for config in found
        for name in NEURONS
        for value in _value(config, name, _one(_neurons(old)), _one(_neurons(new)))
    ]
    heads = [
        (config, name, value)
        for config in found
        for names, each in ((HEADS, _heads), (GROUPS, _groups))
        for name in names
        for value in _value(config, name, _one(each(old)), _one(each(new)))
    ]
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
    blocks = [unit for unit in units if isinstance(unit.block, Attention)]
    grids = [unit.alive.view(unit.block.groups, -1) for unit in blocks if isinstance(unit.block, Attention)]
    counts = ((HEADS, _heads, [int(g.sum()) for g in grids]), (GROUPS, _groups, [int(g.any(1).sum()) for g in grids]))
    size = _one([unit.block.head_size for unit in blocks if isinstance(unit.block, Attention)])
    if old is None or size is None:
        return
    for config in list(configs(smaller, "")):
        for names, each, now in counts:
            for name in names:
                for value in _value(config, name, _one(each(old)), _one(now)):
                    setattr(config, name, value)
                    config.head_dim = size


def _value(config: Any, name: str, before: int | None, after: int | None) -> Iterator[Any]:
    """Yield what a field must be afterwards, if it holds a width that changes."""
    value = getattr(config, name, None)
    if before is None or after is None or before == after or isinstance(value, bool):
        return
    if name in RATIOS and isinstance(value, (int, float)) and value:
        ratio = after * value / before
        yield int(ratio) if ratio == int(ratio) else ratio
    elif value == before or (name == "n_inner" and value is None and hasattr(config, name)):
        yield after


def _neurons(anatomy: Anatomy) -> list[int]:
    return [block.neurons for block in anatomy.feed_forwards]


def _heads(anatomy: Anatomy) -> list[int]:
    return [block.heads for block in anatomy.attentions]


def _groups(anatomy: Anatomy) -> list[int]:
    return [block.groups for block in anatomy.attentions]


def _one(numbers: list[int]) -> int | None:
    """Return the number that all are, or None."""
    return numbers[0] if len(set(numbers)) == 1 else None


def _why(smaller: nn.Module, left: Widths) -> str:
    new = read(smaller)
    if new is not None and any(
        _one(numbers) is None for numbers in (_neurons(new), _heads(new), _groups(new)) if numbers
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
