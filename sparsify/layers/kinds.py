"""The one place that knows layer types: which parameters of which modules can be pruned."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparsify.layers import experts
from sparsify.layers.registry import registered
from sparsify.layers.storage import Storage
from sparsify.layers.unprunable import made, opaque, packed
from sparsify.layers.weight import FORWARD, TRANSPOSED, Weight

LINEAR = Storage("linear")
TABLES = (nn.Embedding, nn.EmbeddingBag)
"""Modules whose weight is a table with a row for each token."""

RELATIVE = {
    "XLNetRelativeAttention": {**dict.fromkeys("qkvr", Storage("transposed")), "o": LINEAR},
    "FunnelRelMultiheadAttention": {"r_kernel": Storage("transposed")},
}
"""Projections [features, heads, head size]: of `o` heads are inputs, of the others outputs."""


def layouts(module: nn.Module) -> dict[str, Storage]:
    """Return how the weights of a module's kind are stored, by attribute; empty for kinds without any."""
    if known := registered(module):
        return known
    if isinstance(module, nn.MultiheadAttention):
        return dict.fromkeys(("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), LINEAR)
    if isinstance(module, nn.Linear):
        return {"weight": LINEAR}
    if isinstance(module, FORWARD):
        return {"weight": Storage("conv")}
    if isinstance(module, TRANSPOSED):
        return {"weight": Storage("deconv", module.groups, flat=True) if module.groups > 1 else Storage("deconv")}
    if isinstance(module, TABLES):
        return {"weight": Storage("embedding")}
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return dict.fromkeys(_recurrent(module), LINEAR)
    if isinstance(module, nn.Bilinear):
        return {"weight": Storage("bilinear")}
    kind = type(module).__name__
    if kind == "Conv1D" and hasattr(module, "nf"):  # transformers' GPT-2 layer
        return {"weight": Storage("transposed")}
    return RELATIVE.get(kind) or experts.stored(module) or experts.router(module)


def _recurrent(module: nn.RNNBase | nn.RNNCellBase) -> list[str]:
    """Return the names of the matrices of a recurrent layer; rows are those of all gates."""
    if isinstance(module, nn.RNNCellBase):
        return ["weight_ih", "weight_hh"]
    return [name for name in module._flat_weights_names if name.startswith("weight_")]


def weights(name: str, module: nn.Module) -> Iterator[Weight]:
    """Yield the prunable weights that `module` itself holds (not those of its children): of experts each for itself."""
    if packed(module):
        return
    for attribute, storage in layouts(module).items():
        parameter = module._parameters.get(attribute)
        if isinstance(parameter, nn.Parameter) and not opaque(parameter):
            yield from Weight.of(_join(name, attribute), module, attribute, storage).apart()


def unprunable(model: nn.Module) -> dict[str, str]:
    """Return name → why it cannot be masked, and what to do, of weights of known kinds that are in no form for it."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if reason := packed(module):
            found[name] = reason
            continue
        for attribute in layouts(module):
            parameter = module._parameters.get(attribute)
            reason = made(module, attribute) if parameter is None else opaque(parameter)
            if reason:
                found[_join(name, attribute)] = reason
    return found


def raw(name: str, module: nn.Module, attribute: str) -> Weight | None:
    """Return a parameter that belongs to no known layer as a matrix [out, in]; None if it is none."""
    parameter = module._parameters.get(attribute)
    matrix = isinstance(parameter, nn.Parameter) and parameter.dim() == 2 and not opaque(parameter)
    return Weight(_join(name, attribute), module, attribute, "linear") if matrix else None


def all_weights(model: nn.Module, *, embeddings: bool = False) -> list[Weight]:
    """Return every prunable weight of a model, in the model's order; a tied one once, experts each for itself.

    With `embeddings`, their tables too; one tied to an output layer is that layer's.

    Examples:
        >>> weights = all_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 2)))
        >>> [(weight.name, weight.geometry.rows, weight.geometry.taps, weight.geometry.columns) for weight in weights]
        [('0.weight', 8, 9, 3), ('1.weight', 2, 1, 8)]
    """
    every = [weight for name, module in model.named_modules() for weight in weights(name, module)]
    first: dict[int, str] = {}
    for weight in sorted(every, key=lambda weight: weight.layout == "embedding"):
        first.setdefault(id(weight.parameter), weight.parameter_name)
    return [
        weight
        for weight in every
        if first[id(weight.parameter)] == weight.parameter_name and (embeddings or weight.layout != "embedding")
    ]


def _join(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute


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
