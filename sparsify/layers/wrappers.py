"""The user's model under its wrappers, and names that do not change with them."""

from __future__ import annotations

from torch import nn

from sparsify.errors import StateError, did_you_mean
from sparsify.layers.weight import Weight

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "AveragedModel")
_INSIDE = ("_orig_mod.", "base_layer.")
"""What torch.compile and adapters put into the names of what they wrap."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's model from under torch.compile, DDP, an averaged model or similar wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in _WRAPPERS:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def plain(name: str) -> str:
    """Return a parameter's name without what wrappers of single layers (torch.compile, adapters) put into it."""
    for part in _INSIDE:
        name = name.replace(f".{part}", ".").removeprefix(part)
    return name


class Named:
    """The parameters of a model, to be found again though wrappers have changed their names since."""

    def __init__(self, model: nn.Module) -> None:
        named = list(unwrap(model).named_parameters(remove_duplicate=False))
        self._by_name = {plain(name): parameter for name, parameter in named}
        self._ids = {id(parameter) for _, parameter in named}

    def has(self, parameter: nn.Parameter) -> bool:
        """Whether this very parameter is one of the model's."""
        return id(parameter) in self._ids

    def find(self, weight: Weight) -> nn.Parameter | None:
        """Return the parameter of a weight: itself, or in another model the one of the same name; None without any."""
        own = weight.parameter
        return own if self.has(own) else self._by_name.get(plain(weight.parameter_name))

    def get(self, weight: Weight) -> nn.Parameter:
        """Return the parameter of a weight. Raises StateError where the model has none."""
        found = self.find(weight)
        if found is None:
            name = weight.parameter_name
            raise StateError(f"the model has no parameter {name!r} any more{did_you_mean(name, self._by_name)}")
        return found
