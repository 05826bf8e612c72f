"""Dead experts leave the parameters that a layer's experts share; its router stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import absent_experts
from sparsify.anatomy import Experts, read
from sparsify.compaction.cutting import follow
from sparsify.errors import CompactionError
from sparsify.layers.outline import remade

COUNTS = ("num_experts", "num_local_experts", "moe_num_experts", "n_routed_experts")
"""What a module of experts calls their number."""


def without_experts(
    model: nn.Module, difference: Callable[[nn.Module], float], tolerance: float
) -> tuple[nn.Module, tuple[str, ...], list[str]]:
    """Return a copy without dead experts (the model itself where there are none), their names, and why some stay.

    Experts that are modules of their own are cut like other blocks: down to no neurons.
    """
    anatomy = read(model)
    notes: list[str] = []
    gone: list[str] = []
    leaving: dict[str, Tensor] = {}
    for experts in anatomy.experts if anatomy is not None else ():
        dead = _dead(experts)
        if not experts.stacks or not bool(dead.any()):
            continue
        names = [experts.members[number].name for number in dead.nonzero().flatten().tolist()]
        if reason := _reason(model, experts):
            notes.append(f"{', '.join(names)}: nothing is added, but they stay: {reason}")
            continue
        if bool(dead.all()):
            dead[0] = False
            notes.append(f"{names.pop(0)}: nothing is added, but it stays: a layer cannot do without any expert")
        leaving[experts.name] = ~dead
        gone += names
    if not gone:
        return model, (), notes
    made = remade(model, lambda _, tensor: tensor.clone())
    for name, kept in leaving.items():
        _take_out(made, name, kept)
    try:
        apart = difference(made)
        reason = "" if apart <= tolerance else f"without them outputs would differ by {apart:.3g}"
    except CompactionError as error:
        reason = f"without them {error}"
    if reason:
        return model, (), [*notes, f"{', '.join(gone)}: nothing is added, but they stay: {reason}"]
    return made, tuple(gone), notes


def _dead(experts: Experts) -> Tensor:
    """Return which experts add nothing: their matrix of down, and its bias, are zero; bool, 1-D."""
    found = []
    for member in experts.members:
        bias = member.down.bias()
        found.append(not bool(member.down.tensor.any()) and (bias is None or not bool(bias.tensor.any())))
    return torch.tensor(found, dtype=torch.bool)


def _reason(model: nn.Module, experts: Experts) -> str:
    """Return why the experts of a layer must be as many as they are; empty where they need not."""
    told = _told(model, experts.name)
    if told is None:
        return "their layer runs all experts, and is not told which of them a token goes to"
    stacks = {id(weight.parameter) for weight in experts.stacks}
    for name, tensor in (*told.named_parameters(), *told.named_buffers()):
        if id(tensor) not in stacks and (tensor.dim() < 2 or len(tensor) != experts.count):
            return f"{name} may belong to all of them"
    return ""


def _told(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module that is told which experts its tokens go to: the one with their weights, or what holds it."""
    for path in (name, name.rpartition(".")[0]):
        module = model.get_submodule(path)
        if absent_experts.arguments(module) is not None:
            return module
    return None


def _take_out(model: nn.Module, name: str, kept: Tensor) -> None:
    """Take experts out of the parameters in which they lie one after the other, in place."""
    told = _told(model, name)
    assert told is not None
    count, left = len(kept), kept.nonzero().flatten()
    absent_experts.leave(told, count, left.tolist())
    for module in told.modules():
        stores: tuple[Any, ...] = (module._parameters, module._buffers)
        for store in stores:
            for key, old in store.items():
                if old is not None:
                    stacks = old.detach().view(count, -1, *old.shape[1:])
                    stacks = stacks.index_select(0, left.to(old.device)).flatten(0, 1)
                    store[key] = nn.Parameter(stacks, old.requires_grad) if key in module._parameters else stacks
    follow(told.modules(), COUNTS, count, len(left))
