"""The one place that knows layer types: which parameters of which modules can be pruned."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparsify.layers.weight import CONVOLUTIONS, Layout, Weight


def layouts(module: nn.Module) -> dict[str, Layout]:
    """Return how the weights of a module's kind are stored, by attribute; empty for kinds without any."""
    if isinstance(module, nn.MultiheadAttention):
        return dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), "linear")
    if isinstance(module, nn.Linear):
        return {"weight": "linear"}
    if isinstance(module, CONVOLUTIONS):
        return {"weight": "conv"}
    if isinstance(module, nn.Embedding):
        return {"weight": "embedding"}
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' GPT-2 layer
        return {"weight": "transposed"}
    return {}


def weights(name: str, module: nn.Module) -> Iterator[Weight]:
    """Yield the prunable parameters that `module` itself holds (not those of its children)."""
    for attribute, layout in layouts(module).items():
        parameter = module._parameters.get(attribute)
        if isinstance(parameter, nn.Parameter) and parameter.is_floating_point():
            yield Weight(f"{name}.{attribute}" if name else attribute, module, attribute, layout)


def computed(model: nn.Module) -> list[str]:
    """Return the names of weights that are no parameters but made from some (weight_norm, torch's own pruning)."""
    return [
        f"{name}.{attribute}" if name else attribute
        for name, module in model.named_modules()
        for attribute in layouts(module)
        if attribute not in module._parameters and (attribute in vars(module) or hasattr(type(module), attribute))
    ]


def all_weights(model: nn.Module, *, embeddings: bool = False) -> list[Weight]:
    """Return every prunable parameter of a model, in the model's order; a tied one once.

    With `embeddings`, their tables too; one tied to an output layer is that layer's.
    """
    every = [weight for name, module in model.named_modules() for weight in weights(name, module)]
    first: dict[int, Weight] = {}
    for weight in sorted(every, key=lambda weight: weight.layout == "embedding"):
        first.setdefault(id(weight.parameter), weight)
    return [w for w in every if first[id(w.parameter)] is w and (embeddings or w.layout != "embedding")]


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
