"""Which linear layers the kernels can take, by what torch itself asks of a weight, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify.semi.kernels import Kernels, short

N, M = 2, 4


@dataclass(frozen=True)
class Linear:
    """A linear layer by its name."""

    name: str
    module: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.module.out_features, self.module.in_features


def linears(model: nn.Module) -> Iterator[Linear]:
    """Yield the linear layers of a model, each once, in order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield Linear(name, module)


def shared(model: nn.Module) -> dict[int, list[str]]:
    """Return the names of parameters that have several, by their ids."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: several for key, several in names.items() if len(several) > 1}


def unfit(layer: Linear, ties: dict[int, list[str]], kernels: Kernels) -> str:
    """Return why the kernels cannot take a layer; empty where they can. What is cheap to see comes first."""
    module = layer.module
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed from others (parametrized)"
    if kernels.is_sparse(weight):
        return "it is converted already"
    if type(module).forward is not nn.Linear.forward or not _stands_alone(module):
        return f"a {type(module).__name__} uses its weight in its own way"
    if id(weight) in ties:
        others = [name for name in ties[id(weight)] if name != f"{layer.name}.weight"]
        return f"tied: it is {others[0]} too" if others else "tied"
    if reason := kernels.unfit(weight):
        return reason
    return _shape(weight, kernels) or _bias(module, weight) or _zeros(weight)


def _stands_alone(module: nn.Linear) -> bool:
    """Whether a layer is called itself: the output layer of `nn.MultiheadAttention` is not."""
    return type(module).__name__ != "NonDynamicallyQuantizableLinear"


def _shape(weight: Tensor, kernels: Kernels) -> str:
    sizes = kernels.sizes(weight.dtype)
    if sizes is None:
        return f"dtype {short(weight.dtype)}: there are kernels for {', '.join(kernels.dtypes())}"
    for what, size, unit in (("outputs", weight.shape[0], sizes.rows), ("inputs", weight.shape[1], sizes.columns)):
        if size < unit or size % unit:
            return f"{size} {what}: no multiple of {unit}"
    return ""


def _bias(module: nn.Linear, weight: Tensor) -> str:
    bias = module.bias
    if isinstance(bias, Tensor) and bias.dtype != weight.dtype:
        return f"its bias is {short(bias.dtype)}, its weight {short(weight.dtype)}"
    return ""


@torch.no_grad()
def _zeros(weight: Tensor) -> str:
    """Return how many groups of four inputs have more than two that are not zero."""
    counts = (weight.detach().reshape(-1, M) != 0).sum(1)
    wrong = int((counts > N).sum())
    if not wrong:
        return ""
    share = f"{wrong / len(counts):.1%}" if wrong / len(counts) >= 0.001 else f"{wrong:,} of {len(counts):,}"
    return f"no 2:4 zeros: {share} of its groups have more than two"
