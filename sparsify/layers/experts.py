"""Experts that share parameters: fused 3-D weights, and how their gate and up lie in them, by class and by shape."""

from __future__ import annotations

import re
from typing import TypeGuard

from torch import Tensor, nn

from sparsify.layers.storage import Layout, Storage

GATED, UPS, GATE, DOWN = "gate_up_proj", "up_proj", "gate_proj", "down_proj"
INTERLEAVED = ("GptOssExperts",)
"""Classes that keep row 2i for the gate and row 2i + 1 for the up of neuron i, where they do not say so themselves."""

FLAT = {"DbrxExpertGLU": ("w1", "v1", "w2", "moe_num_experts")}
"""Classes that keep experts one after the other in 2-D parameters: gate, up, down, and the attribute with their number.
Rows of gate and up are neurons, and so are those of down: it is stored [in, out]."""

STACKS = ("JetMoeParallelExperts", "GraniteMoeParallelExperts", "GraniteMoeSharedParallelExperts",
          "GraniteMoeHybridParallelExperts", "MoshiFlexibleLinear", "KyutaiSpeechToTextFlexibleLinear")  # fmt: skip
"""Classes of one `weight` [experts, out, in]."""

ROUTER = re.compile("(Router|Gate|Gating)(?![a-z])")
"""What the classes of routers are called that hold their matrix themselves: [experts, features]."""


def parts(module: nn.Module) -> dict[str, str]:
    """Return part → the parameter that holds this matrix of every expert: `fused` (gate and up), `gate`, `up`, `down`.

    Empty for a module in which no experts share parameters.
    """
    if type(module).__name__ in FLAT:
        gate, up, down, _ = FLAT[type(module).__name__]
        return {"gate": gate, "up": up, "down": down}
    names = {"fused": GATED, "gate": GATE, "up": UPS, "down": DOWN}
    found = {part: name for part, name in names.items() if _is_stack(module._parameters.get(name))}
    return found if "down" in found and ("fused" in found or "up" in found) else {}


def stored(module: nn.Module) -> dict[str, Storage]:
    """Return how the experts that share a module's parameters are stored, by attribute; empty without any."""
    if type(module).__name__ in STACKS and _is_stack(weight := module._parameters.get("weight")):
        return {"weight": Storage("linear", len(weight))}
    found = parts(module)
    if type(module).__name__ in FLAT:
        count = int(getattr(module, FLAT[type(module).__name__][3], 0))
        return {
            name: Storage("transposed" if part == "down" else "linear", count, flat=count > 0)
            for part, name in found.items()
        }
    if not found:
        return {}
    layout: Layout = "transposed" if _transposed(module, found) else "linear"
    return {name: Storage(layout, len(module.get_parameter(name))) for name in found.values()}


def interleaved(module: nn.Module) -> bool:
    """Whether the rows of gate and up alternate in `gate_up_proj`; else the gate's come first."""
    declared = getattr(module, "is_concatenated", None)
    return type(module).__name__ in INTERLEAVED if declared is None else not declared


def router(module: nn.Module) -> dict[str, Storage]:
    """Return how the matrix of a router is stored that is no layer of torch, by attribute; empty for other modules."""
    weight = module._parameters.get("weight")
    bare = isinstance(weight, Tensor) and weight.dim() == 2 and not isinstance(module, nn.Linear)
    return {"weight": Storage("linear")} if bare and ROUTER.search(type(module).__name__) else {}


def _is_stack(tensor: Tensor | None) -> TypeGuard[Tensor]:
    return isinstance(tensor, Tensor) and tensor.dim() == 3


def _transposed(module: nn.Module, found: dict[str, str]) -> bool:
    """Whether matrices are stored [in, out]: as the class says, else by the sizes, of which only one reading agrees.

    Of [a, b] and [c, d], b and c are the features if they are stored [out, in].
    """
    declared = getattr(module, "is_transposed", None)
    if declared is not None:
        return bool(declared)
    first = "fused" if "fused" in found else "up"
    (_, a, b), (_, c, d) = (module.get_parameter(found[part]).shape for part in (first, "down"))
    return not (b == c and a == (2 if "fused" in found else 1) * d)
