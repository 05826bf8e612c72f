"""From selectors to parameters of every kind: biases, norms and tables as well as matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from sparsify.anatomy import Anatomy
from sparsify.anatomy.parts import Layer
from sparsify.layers import Weight
from sparsify.selectors import matcher
from sparsify.targets import Targets


class Parameters(Targets):
    """Selects parameters in one model.

    A matched module stands for every parameter in it, a layer for everything below it, a role for its matrices and
    tables with their biases.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy | None = None) -> None:
        super().__init__(model, anatomy)
        atoms: dict[str, list[Weight]] = {}
        for weight in self.known:
            atoms.setdefault(weight.parameter_name, []).extend(self.atoms[weight.name])
        prunable = {id(weight.parameter): weight.whole for weight in self.known}
        every = {
            id(parameter): prunable.get(id(parameter)) or Weight(_join(name, attribute), module, attribute, "bias")
            for name, module in model.named_modules()
            for attribute, parameter in module._parameters.items()
            if parameter is not None
        }
        self.atoms = atoms
        self.know(list(every.values()))
        self.tables, self.routers, self.adapters = set(), set(), {}  # they are meant like any other parameter

    def _names(self, weights: Iterable[Weight]) -> set[str]:
        weights = list(weights)
        biases = {bias.parameter_name for weight in weights if (bias := weight.bias()) is not None}
        return super()._names(weights) | biases

    def _below(self, layers: Sequence[Layer]) -> set[str]:
        roots = tuple(f"{layer.name}." for layer in layers)
        return super()._names(weight for weight in self.known if weight.parameter_name.startswith(roots))

    def _nothing(self, selector: str) -> str:
        hit = matcher(selector)
        kinds = {type(module).__name__ for name, module in self.model.named_modules() if hit(name, module)}
        if kinds:
            return f"{selector!r} matches only modules without parameters ({', '.join(sorted(kinds)[:5])})"
        return super()._nothing(selector)


def _join(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute
