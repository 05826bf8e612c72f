"""Dead channels: what computes them is zero, so they and what reads them leave."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsify.anatomy import read
from sparsify.compaction.cutting import COLUMNS, ROWS, follow, narrow_norm
from sparsify.compaction.units import first_of
from sparsify.layers import all_weights
from sparsify.layers.weight import CONVOLUTIONS, TRANSPOSED
from sparsify.structure.channels.data import Channels, ChannelSet
from sparsify.structure.orders import blocks


def candidates(model: nn.Module) -> bool:
    """Whether a channel may be dead that belongs to no block: some matrix outside has a row of zeros."""
    anatomy = read(model)
    found = blocks(anatomy) if anatomy else []
    inside = {id(weight.parameter) for block in found for _, weight in block.roles()}
    for weight in all_weights(model):
        if id(weight.parameter) not in inside:
            cube = weight.cube(weight.tensor)
            if cube.numel() and not bool((cube != 0).flatten(1).any(1).all()):
                return True
    return False


def cut(model: nn.Module, found: Channels, *, align: int = 1) -> int:
    """Take the dead channels out of a model, in place; return how many."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    gone: dict[tuple[str, int], Tensor] = {}
    count = 0
    for each in found.sets:
        dead = _dead(each, tensors, align)
        count += int(dead.sum())
        for side in each.sides:
            lines = gone.setdefault(
                (side.name, side.axis), torch.zeros(tensors[side.name].shape[side.axis], dtype=torch.bool)
            )
            lines[side.places] |= dead[side.groups]
    places = _places(model)
    for (name, axis), lines in gone.items():
        if bool(lines.any()):
            _take_out(places[name], axis, ~lines)
    return count


def _dead(each: ChannelSet, tensors: dict[str, Tensor], align: int) -> Tensor:
    """Return which channels of a set leave: bool [channels]. At least one stays."""
    alive = torch.zeros(each.count, dtype=torch.int64)
    for side in each.dying:
        lines = tensors[side.name].detach().movedim(side.axis, 0).cpu()
        there = (lines[side.places] != 0).reshape(len(side.places), -1).any(1)
        alive.index_add_(0, side.groups, there.long())
    lives = alive > 0
    wanted = min(-(-max(int(lives.sum()), 1) // align) * align, each.count)
    return ~(lives | first_of(~lives, wanted - int(lives.sum())))


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Return where every tensor is kept, by its first name: (module, name), once for every tie."""
    first: dict[int, str] = {}
    found: dict[str, list[tuple[nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None:
                    key = first.setdefault(id(value), f"{path}.{name}" if path else name)
                    found.setdefault(key, []).append((module, name))
    return found


def _take_out(places: list[tuple[nn.Module, str]], axis: int, kept: Tensor) -> None:
    """Leave only some places along a dimension of a tensor; its modules say so."""
    module, name = places[0]
    old = getattr(module, name)
    new = old.detach().index_select(axis, kept.nonzero().flatten().to(old.device))
    made = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    for module, name in places:
        store = module._parameters if name in module._parameters else module._buffers
        store[name] = made
        _say(module, old.shape, axis, len(kept), int(kept.sum()), name)


def _say(module: nn.Module, shape: torch.Size, axis: int, before: int, after: int, name: str) -> None:
    """Have a layer keep the numbers of its channels."""
    if name != "weight":
        follow([module], ("num_features", "num_channels"), before, after)
        return
    transposed = isinstance(module, TRANSPOSED) or "nf" in vars(module)
    groups = getattr(module, "groups", 1)
    if isinstance(module, nn.GroupNorm):  # its groups leave as wholes
        module.num_groups = after * module.num_groups // before
    if axis == int(transposed):
        follow([module], ROWS, before, after)
        if groups > 1 and isinstance(module, CONVOLUTIONS):  # a group goes with its outputs and inputs
            per = before // groups
            module.groups = after // per
            module.in_channels = module.groups * shape[1]
    elif groups == 1:
        follow([module], COLUMNS, before, after)
    narrow_norm(module, before, after)
