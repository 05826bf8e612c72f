"""Whether weights are still where they were in a model: somebody may have put another module in their place."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sparsify.layers.weight import Weight


class Places:
    """The places of some weights in a model. Wrappers (torch.compile, adapters) may come between, replacements not."""

    def __init__(self, model: nn.Module, weights: Iterable[Weight]) -> None:
        self._model = model
        self._weights = list({weight.parameter_name: weight.whole for weight in weights}.values())
        self._shapes = [weight.shape for weight in self._weights]
        self._edges = self._found()

    def wrong(self) -> str | None:
        """Return what has become of a weight that is not there any more, or has another shape; None if all are."""
        for weight, shape in zip(self._weights, self._shapes, strict=True):
            parameter = weight.module._parameters.get(weight.attribute)
            if parameter is not None and parameter.shape != shape:
                return f"{weight.parameter_name} was {list(shape)}, and is {list(parameter.shape)} now"
        if all(parent._modules.get(name) is child for parent, name, child in self._edges):
            return None
        there = {id(parameter) for parameter in self._model.parameters()}
        for weight in self._weights:
            parameter = weight.module._parameters.get(weight.attribute)
            if parameter is not None and id(parameter) not in there:
                return f"{weight.parameter_name} is not the model's any more: its module was replaced"
        self._edges = self._found()
        return None

    def _found(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """Return (module, name of a child, child) on the way to every weight."""
        modules = dict(self._model.named_modules(remove_duplicate=False))
        names = {id(module): name for name, module in modules.items()}
        found = {}
        for weight in self._weights:
            path = names.get(id(weight.module), "")
            while path:
                above, _, name = path.rpartition(".")
                found[path] = (modules[above], name, modules[path])
                path = above
        return list(found.values())
