"""Guesses about an unknown layer: which of its matrices are attention and feed-forward, by the names that models use.

Nothing here is trusted: what is guessed is tried (`trial`) before a head or a neuron is offered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import get_args

from torch import nn

from sparsify.anatomy.architecture import AttentionPaths, FeedForwardPaths, Packing
from sparsify.anatomy.building import below, common, join, number_at
from sparsify.anatomy.words import is_adapter
from sparsify.layers import Weight, in_use, layouts, weights

TRIPLES = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("linear_q", "linear_k", "linear_v"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
    ("Wq", "Wk", "Wv"),
    ("wq", "wk", "wv"),
    ("q_linear", "k_linear", "v_linear"),
    ("w_q", "w_k", "w_v"),
    ("qs", "ks", "vs"),
    ("w_qs", "w_ks", "w_vs"),
    ("W_q", "W_k", "W_v"),
    ("W_Q", "W_K", "W_V"),
    ("fc_q", "fc_k", "fc_v"),
    ("proj_q", "proj_k", "proj_v"),
    ("queries", "keys", "values"),
    ("query_projection", "key_projection", "value_projection"),
    ("linears.0", "linears.1", "linears.2"),
    ("linear_layers.0", "linear_layers.1", "linear_layers.2"),
)
FUSED = (
    "qkv", "Wqkv", "qkv_proj", "c_attn", "query_key_value", "in_proj", "in_proj_qkv", "W_pack", "att_proj", "to_qkv",
    "wqkv",
)  # fmt: skip
FUSED_PAIRS = (("q_attn", "c_attn"), ("q_proj", "kv_proj"), ("query", "key_value"), ("to_q", "to_kv"), ("q", "kv"),
               ("Wq", "Wkv"), ("wq", "wkv"))  # fmt: skip
"""Query, and key and value in one."""

OUTPUTS = (
    "out_proj", "o_proj", "out_lin", "o", "proj", "c_proj", "dense", "output_proj", "linear_out", "to_out.0", "to_out",
    "Wo", "wo", "out", "output.dense", "projection", "linear_o", "fc", "w_o",
    "W_o", "W_O", "fc_o", "fc_out", "w_concat", "out_projection", "output_linear", "linears.3",
)  # fmt: skip
SIZES = (
    "head_dim",
    "attention_head_size",
    "key_value_proj_dim",
    "head_size",
    "d_head",
    "dim_head",
    "dim_per_head",
    "d_k",
)
HEADS = ("num_heads", "num_attention_heads", "n_heads", "nhead", "n_head", "heads", "h", "num_attn_heads")

GATED = (
    ("up_proj", "gate_proj", "down_proj"),
    ("up", "gate", "down"),
    ("w3", "w1", "w2"),
    ("wi_1", "wi_0", "wo"),
    ("linear_v", "linear", "linear_1"),
    ("c_fc_1", "c_fc_0", "c_proj"),
    ("fc1_x", "fc1_g", "fc2"),
)
"""Up, gate and down."""

PAIRS = (
    ("fc1", "fc2"), ("up_proj", "down_proj"), ("intermediate.dense", "output.dense"), ("lin1", "lin2"), ("wi", "wo"),
    ("linear1", "linear2"), ("c_fc", "c_proj"), ("w1", "w2"), ("dense_h_to_4h", "dense_4h_to_h"), ("fc_in", "fc_out"),
    ("intermediate_dense", "output_dense"), ("pwconv1", "pwconv2"), ("ffn", "ffn_output"), ("layer_1", "layer_2"),
    ("ff.0", "ff.2"), ("dense_in", "dense_out"), ("linear_1", "linear_2"), ("key", "value"), ("up", "down"),
    ("w_1", "w_2"), ("fc_1", "fc_2"), ("dense1", "dense2"), ("dense_1", "dense_2"),
)  # fmt: skip
FUSED_GATES = (
    ("gate_up_proj", "down_proj"), ("Wi", "Wo"), ("up_gate_proj", "down_proj"), ("weights_in", "weights_out"),
    ("fc1", "fc2"), ("input_linear", "output_linear"),
)  # fmt: skip


PLACES = {
    "ffn": (
        re.compile(r"(\w+_)?(mlp|ffn|ff|feed_?forward|ffwd)\d*", re.IGNORECASE),
        re.compile("MLP|Mlp|FeedForward|FFN"),
    ),
    "attention": (
        re.compile(r"(\w+_)?(attn|attention|att|mha|mhsa)\d*", re.IGNORECASE),
        re.compile("Att(entio)?n(?!.*(Block|Layer))|MHA"),
    ),
}
"""What modules are called that hold feed-forward parts, or attention: by name, and by class."""


def attentions(layer: nn.Module) -> Iterator[list[AttentionPaths]]:
    """Yield, for each attention block that a layer may have, what its paths may be, the likeliest first."""
    found = _matrices(layer)
    for path, module in layer.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            if module.in_proj_weight is not None:
                yield [AttentionPaths(fused=path, output=join(path, "out_proj"), head_size=join(path, "head_dim"))]
            continue
        for names in TRIPLES:
            parts = [join(path, name) for name in names]
            if all(part in found for part in parts):
                outputs = _outputs(path, found, found[parts[0]].geometry.rows, parts)
                query, key, value = parts
                made = [
                    replace(size, query=query, key=key, value=value, output=output)
                    for output, size in product(outputs, _sizes(layer, path))
                ]
                if made:
                    yield made
                break
        pairs = [(join(path, query), join(path, rest)) for query, rest in FUSED_PAIRS]
        if pair := next((pair for pair in pairs if set(pair) <= set(found)), None):
            query, rest = pair
            outputs = _outputs(path, found, found[query].geometry.rows, [*pair])
            made = [
                replace(size, query=query, fused=rest, output=output)
                for output, size in product(outputs, _sizes(layer, path))
            ]
            if made:
                yield made
            continue
        for name in FUSED:
            whole = join(path, name)
            if whole in found:
                rows = found[whole].geometry.rows
                outputs = [o for o in _outputs(path, found, None, [whole]) if found[o].geometry.columns < rows]
                made = [
                    replace(size, fused=whole, output=output, packing=packing)
                    for output, packing, size in product(outputs, get_args(Packing), _sizes(layer, path))
                ]
                if made:
                    yield made
                break


def feed_forwards(layer: nn.Module, taken: set[str]) -> Iterator[list[FeedForwardPaths]]:
    """Yield, for each feed-forward block that a layer may have, what its paths may be; `taken` are of attention.

    Names come first; then any two matrices, one after the other, of which the second reads as many features as the
    first makes.
    """
    found = {path: weight for path, weight in _matrices(layer).items() if path not in taken}
    used: set[str] = set()
    for path, _ in layer.named_modules():
        for names in (*GATED, *PAIRS, *FUSED_GATES):
            parts = [join(path, name) for name in names]
            if not all(part in found and part not in used for part in parts):
                continue
            rows, columns = found[parts[0]].geometry.rows, found[parts[-1]].geometry.columns
            if len(parts) == 3 and found[parts[1]].geometry.rows == rows == columns:
                yield [FeedForwardPaths(up=parts[0], gate=parts[1], down=parts[2])]
            elif len(parts) == 2 and rows == columns:
                yield [FeedForwardPaths(up=parts[0], down=parts[1])]
            elif len(parts) == 2 and rows == 2 * columns and columns > 1:
                yield [FeedForwardPaths(fused=parts[0], down=parts[1])]
            else:
                continue
            used |= set(parts)
    for one, other in pairwise([path for path in found if path not in used]):
        first, second = found[one].geometry, found[other].geometry
        if one in used or first.columns != second.rows or not _near(one, other):
            continue
        if first.rows == second.columns > first.columns:
            used |= {one, other}
            yield [FeedForwardPaths(up=one, down=other)]
        elif first.rows == 2 * second.columns > 2 and second.columns > first.columns:
            used |= {one, other}
            yield [FeedForwardPaths(fused=one, down=other)]


def is_attention(paths: AttentionPaths) -> bool:
    """Whether names alone tell that it is attention, though its heads may not be what they seem."""
    return bool(paths.query) or "att" in paths.fused.lower()


def is_feed_forward(paths: FeedForwardPaths) -> bool:
    """Whether names alone tell that it is a feed-forward block."""
    mine = [path for path in (paths.up or paths.fused, paths.gate, paths.down) if path]
    known = [names for names in (*GATED, *PAIRS, *FUSED_GATES) if len(names) == len(mine) and names != ("key", "value")]
    return any(all(f".{path}".endswith(f".{name}") for path, name in zip(mine, names, strict=True)) for names in known)


def loose(layer: nn.Module, taken: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (role, path) of what is of attention or feed-forward by its place, though it is no block that is known.

    Of modules around a matrix the innermost decides by its name or class; `taken` are parts of blocks.
    """
    found = _matrices(layer)
    for path, _ in layer.named_modules():
        for names in TRIPLES:
            parts = [join(path, name) for name in names]
            if all(part in found and part not in taken for part in parts):
                yield from zip(("attention.query", "attention.key", "attention.value"), parts, strict=True)
                taken |= set(parts)
    for path, module in layer.named_modules():
        held = any(weight.layout not in ("conv", "embedding") for weight in weights("", module))
        known = any(path == part or below(path, part) for part in taken)
        if not held or not path or known or is_adapter(path, in_layer=True):
            continue
        parts = path.split(".")
        role = ""
        for depth in range(len(parts), 0, -1):
            part, around = parts[depth - 1], layer.get_submodule(".".join(parts[:depth]))
            name = part if around is not module else ""
            if role := _role(name, type(around).__name__):
                break
        if role:
            yield role, path


def _role(name: str, kind: str) -> str:
    """Return the role that a module's name or class tells, or nothing."""
    for role, (names, kinds) in PLACES.items():
        if names.fullmatch(name) or kinds.search(kind):
            return role
    return ""


def _near(one: str, other: str) -> bool:
    """Whether two matrices stand in one module, or in the layer itself."""
    return one.count(".") <= 1 or bool(common(one, other))


def _matrices(layer: nn.Module) -> dict[str, Weight]:
    """Return the linear layers of a layer by path, without adapters; what an adapter wraps has the wrapper's path."""
    found: dict[str, Weight] = {}
    wrappers: list[str] = []
    for path, module in layer.named_modules():
        if is_adapter(path, in_layer=True) or any(below(path, wrapper) for wrapper in wrappers):
            continue
        held = module
        while within := in_use(held):
            held = held.get_submodule(within)
        if held is not module:
            wrappers.append(path)
        for weight in weights("", held):
            if weight.layout in ("linear", "transposed") and set(layouts(held)) == {"weight"} and not weight.stack:
                found[path] = weight
    return found


def _outputs(path: str, found: dict[str, Weight], columns: int | None, without: list[str]) -> list[str]:
    """Return what may be the output of an attention block: beside its projections, or one module further out."""
    parent = path.rpartition(".")[0]
    places = [path, parent] if path else [path]
    names = [join(place, name) for place in places for name in OUTPUTS]
    return [n for n in names if n in found and n not in without and columns in (None, found[n].geometry.columns)]


def _sizes(layer: nn.Module, path: str) -> list[AttentionPaths]:
    """Return paths with nothing but an attribute that may say how large a head is."""
    places = [path, path.rpartition(".")[0]] if path else [path]
    found = []
    for place in places:
        for sized, names in ((True, SIZES), (False, HEADS)):
            for name in (*names, *(f"config.{name}" for name in names)):
                at = join(place, name)
                if (number_at(layer, at) or 0) > 0:
                    found.append(AttentionPaths("", head_size=at) if sized else AttentionPaths("", heads=at))
    return found
