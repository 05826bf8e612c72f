"""What a configuration can say of a smaller model: asked of a model that is made of it, not of a list of families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from sparsify.anatomy import Anatomy, read
from sparsify.layers.outline import outline
from sparsify.structure.configs import configs
from sparsify.structure.rebuilt import make

NEURONS = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim",
           "d_inner", "ffn_hidden_size", "mlp_dim", "moe_intermediate_size", "shared_expert_intermediate_size",
           "dim_feedforward", "mlp_ratio", "expansion_ratio")  # fmt: skip
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads",
         "attention_heads")  # fmt: skip
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
SIZES = ("head_dim", "d_kv", "attention_head_dim")
"""Fields that hold the features of a head, where a configuration has them."""

RATIOS = ("mlp_ratio", "expansion_ratio")

Edit = tuple[Any, str, Any]
"""A configuration, a field, a value."""


def neurons_of(anatomy: Anatomy) -> list[int]:
    """Return the neurons of every feed-forward block."""
    return [block.neurons for block in anatomy.feed_forwards]


def heads_of(anatomy: Anatomy) -> list[int]:
    """Return the query heads of every attention block."""
    return [block.heads for block in anatomy.attentions]


def groups_of(anatomy: Anatomy) -> list[int]:
    """Return the key and value heads of every attention block."""
    return [block.groups for block in anatomy.attentions]


def one(numbers: list[int]) -> int | None:
    """Return the number that all are, or None."""
    return numbers[0] if len(set(numbers)) == 1 else None


def edits(config: Any, names: tuple[str, ...], before: int | None, after: int | None) -> Iterator[Edit]:
    """Yield the fields of a configuration that hold a width, with what they must hold afterwards."""
    if before is None or after is None or before == after:
        return
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, bool):
            continue
        if name in RATIOS and isinstance(value, (int, float)) and value:
            ratio = after * value / before
            yield config, name, int(ratio) if ratio == int(ratio) else ratio
        elif value == before or (name == "n_inner" and value is None and hasattr(config, name)):
            yield config, name, after


def says_neurons(model: nn.Module) -> bool:
    """Whether a configuration can say that all feed-forward blocks have fewer neurons."""
    old = read(model)
    width = one(neurons_of(old)) if old is not None else None
    if width is None or width < 2:
        return False
    made = _made(model, lambda config: list(edits(config, NEURONS, width, width // 2)))
    return made is not None and set(neurons_of(made)) == {width // 2}


def says_heads(model: nn.Module) -> bool:
    """Whether a configuration can say that all attention blocks have fewer heads of the same size."""
    old = read(model)
    heads, groups = (one(heads_of(old)), one(groups_of(old))) if old is not None else (None, None)
    if old is None or heads is None or groups is None or groups < 2:
        return False
    fewer, size = groups // 2, old.attentions[0].head_size
    per = heads // groups

    def change(config: Any) -> list[Edit]:
        found = [*edits(config, HEADS, heads, fewer * per), *edits(config, GROUPS, groups, fewer)]
        sizes = [(config, name, size) for name in SIZES if hasattr(config, name)] or [(config, SIZES[0], size)]
        return found + sizes if found else []

    made = _made(model, change)
    return made is not None and {(block.heads, block.head_size) for block in made.attentions} == {(fewer * per, size)}


def _made(model: Any, change: Callable[[Any], list[Edit]]) -> Anatomy | None:
    """Return the anatomy of a model whose configuration is another one, or None where there is none."""
    copy = outline(model)
    try:
        for config in list(configs(copy, "")):
            for each, name, value in change(config):
                setattr(each, name, value)
        return read(make(copy, copy.config))
    except Exception:  # whatever a configuration does that cannot be
        return None
