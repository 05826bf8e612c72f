"""Which managers are at work on which model."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from sparsify.plan import Plan
from sparsify.transaction import AT_WORK

_APPLIED: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()
"""The managers that were applied to each model."""


def remember(model: nn.Module, manager: Any) -> None:
    """Note that a manager was applied to a model."""
    _APPLIED.setdefault(model, weakref.WeakSet()).add(manager)


def at_work(model: nn.Module) -> bool:
    """Whether a manager is at work on a model, or on a part of it."""
    return any(_managers(module) for module in model.modules() if module in _APPLIED)


def take_over(model: nn.Module, plan: Plan) -> None:
    """Detach managers that were left at work on the same weights; end the broken-off steps of others."""
    ours = {id(weight.parameter) for modifier in plan.modifiers for weight in (*modifier.masked, *modifier.touches)}
    for other in _managers(model):
        theirs = {id(weight.parameter) for modifier in other._plan.modifiers for weight in modifier.masked}
        if ours & theirs:
            other.detach()
        else:
            other._loop.settle()


def _managers(model: nn.Module) -> list[Any]:
    return [each for each in _APPLIED.get(model, ()) if each._transaction.phase in AT_WORK]
