"""Numbers that blocks keep beside their matrices, and that follow when heads or neurons leave."""

from __future__ import annotations

from torch import nn

from sparsify.anatomy import Attention
from sparsify.compaction.cutting import follow
from sparsify.compaction.units import Unit

HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead", "num_query_heads", "n_attn_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_key_value", "kv_heads")
PER_GROUP = ("num_key_value_groups", "num_queries_per_kv", "n_rep", "kv_repeat")
WIDTHS = ("all_head_size", "inner_dim", "split_size", "attention_dim", "q_dim", "query_dim", "hidden_width")
"""Features of all heads together."""

LOOSE = ("embed_dim", "hidden_size", "dim", "n_embd", "d_model", "hidden_dim", "all_dim")
"""What may be that, or the width of the model: set where it is needed (the other way is tried first)."""

NEURONS = ("intermediate_size", "intermediate_dim", "ffn_dim", "d_ff", "hidden_dim", "expert_dim", "ffn_hidden_size",
           "mlp_dim", "inner_dim", "hidden_features", "dim_feedforward", "dff")  # fmt: skip


def set_numbers(model: nn.Module, unit: Unit, *, loose: bool = False) -> None:
    """Have a block say how many units it has now; `loose`: also where a number may mean two things."""
    modules = around(model, unit)
    block, alive = unit.block, unit.alive
    if not isinstance(block, Attention):
        follow(modules, NEURONS, len(alive), int(alive.sum()))
        return
    grid = alive.view(block.groups, -1)
    heads, groups = int(alive.sum()), int(grid.any(1).sum())
    per = heads // groups if groups else 0
    size = block.head_size
    follow(modules, WIDTHS + (LOOSE if loose else ()), block.heads * size, heads * size)
    follow(modules, GROUPS, block.groups, groups)
    if per and per != grid.shape[1]:
        follow(modules, PER_GROUP, grid.shape[1], per)
    follow(modules, HEADS, block.heads, heads)


def around(model: nn.Module, unit: Unit) -> list[nn.Module]:
    """Return the modules of a block; where it has none of its own, those of its matrices, and its layer."""
    there = dict(model.named_modules())
    if unit.block.name in there and unit.block.name != unit.layer:
        return list(there[unit.block.name].modules())
    found = [there[unit.layer]]
    for _, weight in unit.block.roles():
        path = weight.parameter_name.rpartition(".")[0]
        while path and path != unit.layer:
            found.append(there[path])
            path = path.rpartition(".")[0]
    return list(dict.fromkeys(found))
