"""A model to try changes of structure on, while the user's stays as it is."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sparsify.layers.references import follow


def outline(model: nn.Module) -> nn.Module:
    """Return a model of the very same parameters, whose modules and configurations are its own.

    No weight is copied or read. It is there to be looked at and planned for: its modules have the hooks that
    the originals have, in tables of their own.
    """
    done: dict[int, nn.Module] = {}
    made = _copied(model, done, {})
    follow(made, done)
    return made


def bare(model: nn.Module) -> nn.Module:
    """Return an outline in evaluation mode and without the hooks of others, to be run with other weights.

    Hooks that torch itself computes weights with (weight_norm, spectral_norm) stay.
    """
    made = outline(model)
    for module in made.modules():
        module.training = False
        for name, value in vars(module).items():
            if isinstance(value, OrderedDict) and name.startswith(("_forward", "_backward", "_full_backward")):
                kept = {key: hook for key, hook in value.items() if type(hook).__module__.startswith("torch.nn.utils.")}
                vars(module)[name] = OrderedDict(kept)
    return made


def remade(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Return an outline whose parameters and buffers are what `change` makes of the model's, each once; ties stay.

    `change` takes the name that a tensor has in its module, and the tensor, detached; it must not write into it.
    """
    return redrawn(outline(model), lambda name, value: change(name, value.detach()))


def redrawn(made: nn.Module, change: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Return an outline itself, its parameters and buffers in the place of which stands what `change` makes of them."""
    done: dict[int, Any] = {}
    for module in made.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None and id(value) not in done:
                    new = change(name, value)
                    done[id(value)] = (
                        nn.Parameter(new, value.requires_grad and new.is_floating_point())
                        if isinstance(value, nn.Parameter)
                        else new
                    )
                if value is not None:
                    store[name] = done[id(value)]
    follow(made, done)
    return made


def _copied(module: nn.Module, done: dict[int, nn.Module], configs: dict[int, Any]) -> nn.Module:
    found = done.get(id(module))
    if found is not None:
        return found
    made = done[id(module)] = object.__new__(type(module))
    values = dict(vars(module))
    for name in ("_parameters", "_buffers"):
        values[name] = dict(values[name])
    for name, value in values.items():
        if callable(getattr(value, "to_dict", None)) and not isinstance(value, nn.Module):
            values[name] = copy.deepcopy(value, configs)
    vars(made).update(values)
    vars(made)["_modules"] = {
        name: None if child is None else _copied(child, done, configs) for name, child in module._modules.items()
    }
    return made
