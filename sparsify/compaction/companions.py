"""What a block keeps for every head, or for every feature, beside its matrices: it is cut with them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from sparsify.anatomy import Attention
from sparsify.compaction.attributes import around
from sparsify.compaction.cutting import COLUMNS, ROWS, follow, narrow_norm
from sparsify.compaction.units import Unit
from sparsify.layers.weight import CONVOLUTIONS


def cut_companions(model: nn.Module, unit: Unit, *, loose: bool = False) -> None:
    """Cut what belongs to the units that leave, in place.

    Of heads: biases of positions, sinks, slopes, norms of their own. `loose`: also what has as many features as all
    units together (a depthwise convolution between up and down, projections of positions), and what lies elsewhere in
    the layer; the other way is tried first.
    """
    block, alive = unit.block, unit.alive
    if bool(alive.all()):
        return
    mine = {id(weight.parameter) for _, weight in block.roles()}
    mine |= {id(bias.parameter) for _, weight in block.roles() if (bias := weight.bias()) is not None}
    counts = _counts(unit)
    features = alive.repeat_interleave(unit.output.geometry.columns // len(alive))
    inside = around(model, unit)
    for module in model.get_submodule(unit.layer).modules() if loose else inside:
        for name, value in _tensors(module):
            if id(value) in mine:
                continue
            for kept in counts:
                axes = [axis for axis, size in enumerate(value.shape) if size == len(kept)]
                if len(axes) == 1 and not (_is_norm(module) and value.dim() == 1):
                    value = _cut(module, name, value, axes[0], kept)
                    break
            else:
                own = module in inside and not _is_norm(module)
                if loose and own and value.dim() and value.shape[0] == len(features):
                    _cut(module, name, value, 0, features)


def _counts(unit: Unit) -> list[Tensor]:
    """Return which heads stay, and which groups of them; nothing for neurons."""
    if not isinstance(unit.block, Attention):
        return []
    groups = unit.alive.view(unit.block.groups, -1).any(1)
    return [unit.alive] if len(groups) == len(unit.alive) else [unit.alive, groups]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for store in (module._parameters, module._buffers):
        for name, value in list(store.items()):
            if value is not None and value.is_floating_point():
                yield name, value


def _cut(module: nn.Module, name: str, value: Tensor, axis: int, kept: Tensor) -> Tensor:
    new = value.detach().index_select(axis, kept.nonzero().flatten().to(value.device))
    if name in module._parameters:
        new = module._parameters[name] = nn.Parameter(new, value.requires_grad)
    else:
        module._buffers[name] = new
    before, after = len(kept), int(kept.sum())
    if isinstance(module, CONVOLUTIONS) and module.groups == before:
        follow([module], ("groups",), before, after)
        follow([module], COLUMNS, before, after)
    follow([module], (*ROWS, "embedding_dim"), before, after)
    narrow_norm(module, before, after)
    return new


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
