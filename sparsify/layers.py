"""Which parameters can be pruned, and how each is seen as a matrix of outputs × inputs.

The one place that knows layer types. A mask always has the parameter's own shape; patterns see the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Layout = Literal["linear", "transposed", "conv"]


@dataclass(frozen=True)
class Weight:
    """A prunable parameter of a module: found anew by name each time, so that it may be replaced."""

    name: str
    module: nn.Module
    attribute: str
    layout: Layout

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is now."""
        parameter: nn.Parameter = getattr(self.module, self.attribute)
        return parameter

    @property
    def rows(self) -> int:
        """Output features."""
        return int(self.matrix(self.parameter).shape[0])

    @property
    def columns(self) -> int:
        """Input features (times the kernel's taps, for convolutions)."""
        return int(self.matrix(self.parameter).shape[1])

    def matrix(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the parameter's shape as [outputs, inputs]; a view wherever possible."""
        if self.layout == "transposed":
            return tensor.t()
        return tensor.flatten(1) if self.layout == "conv" else tensor

    def unmatrix(self, matrix: Tensor) -> Tensor:
        """Return a matrix [outputs, inputs] in the parameter's shape: the inverse of `matrix`."""
        if self.layout == "transposed":
            return matrix.t().contiguous()
        return matrix.reshape(self.parameter.shape)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's model from under torch.compile, DDP, an averaged model or similar wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in _WRAPPERS:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


_WRAPPERS = ("DistributedDataParallel", "DataParallel", "AveragedModel")


def weights(name: str, module: nn.Module) -> Iterator[Weight]:
    """Yield the prunable parameters that `module` itself holds (not those of its children)."""
    layouts: dict[str, Layout] = {}
    if isinstance(module, nn.MultiheadAttention):
        layouts = dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), "linear")
    elif isinstance(module, nn.Linear):
        layouts = {"weight": "linear"}
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        layouts = {"weight": "conv"}
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' GPT-2 layer
        layouts = {"weight": "transposed"}
    for attribute, layout in layouts.items():
        parameter = module._parameters.get(attribute)
        if isinstance(parameter, nn.Parameter) and parameter.is_floating_point():
            yield Weight(f"{name}.{attribute}" if name else attribute, module, attribute, layout)


def all_weights(model: nn.Module) -> list[Weight]:
    """Return every prunable parameter of a model, in the model's order; a tied one once."""
    seen: set[int] = set()
    found = []
    for name, module in model.named_modules():
        for weight in weights(name, module):
            if id(weight.parameter) not in seen:
                seen.add(id(weight.parameter))
                found.append(weight)
    return found


def aliases(model: nn.Module) -> dict[int, list[str]]:
    """Return id of a parameter → all its names, for parameters that have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {key: value for key, value in names.items() if len(value) > 1}


def unsuitable(parameter: Tensor) -> str | None:
    """Return why a parameter cannot be masked as it is, or None."""
    if isinstance(parameter, nn.UninitializedParameter):
        return "is not initialised yet; run the model once before"
    if hasattr(parameter, "device_mesh") or hasattr(parameter, "placements"):
        return "is sharded (DTensor), which is not supported yet"
    if parameter.layout != torch.strided:
        return f"has the layout {parameter.layout}"
    return None
