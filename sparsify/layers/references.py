"""What modules hold beside their tables (lists of layers, methods, hooks): in a copy it must be the copy's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn

TABLES = ("_parameters", "_buffers", "_modules")
"""What torch itself keeps tensors and modules in: copied by whoever copies the module."""

COMPILED = "_compiled_call_impl"
"""What `module.compile()` leaves: a compiled call of the original."""


def follow(model: nn.Module, new: Mapping[int, Any]) -> None:
    """Have every module of a model refer to new objects (by the ids of the old), in place, with containers of its own.

    Without it the forward of a copy calls modules, and multiplies by weights, that are the original's.
    """
    for module in model.modules():
        held = vars(module)
        for name, value in list(held.items()):
            if name == COMPILED:
                held[name] = None
            elif name not in TABLES:
                held[name] = _followed(value, new)


def _followed(value: Any, new: Mapping[int, Any]) -> Any:
    if isinstance(value, (nn.Module, Tensor)):
        return new.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in new:
        return MethodType(value.__func__, new[id(value.__self__)])
    if type(value) is partial:
        args, named = (_followed(each, new) for each in (value.args, value.keywords))
        made = partial(_followed(value.func, new), *args, **named)
        vars(made).update({key: _followed(each, new) for key, each in vars(value).items()})
        return made
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _followed(each, new)) for key, each in value.items())
    if type(value) in (list, set, tuple):
        return type(value)(_followed(each, new) for each in value)
    return value
