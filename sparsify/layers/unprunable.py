"""Weights of layers that no recipe can act on as they are, and what to do about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

DTYPES = "float16, bfloat16, float32 and float64"
PACKED = ("Linear8bitLt", "Linear4bit", "LinearNF4", "LinearFP4", "QuantLinear", "QLinear", "HQQLinear", "FP8Linear",
          "WQLinear_GEMM", "WQLinear_GEMV", "QuantizedLinear", "BitLinear")  # fmt: skip
"""Classes of bitsandbytes, GPTQ, AWQ, HQQ, quanto, … that keep their weights in another form than numbers."""

MODULES = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic.quantized")
"""Where torch's own quantized layers are."""

FIRST = "prune first, then quantize"


def packed(module: nn.Module) -> str | None:
    """Return why nothing of a module can be masked, or None: it is a quantized layer."""
    for cls in type(module).__mro__:
        ours = cls.__module__.startswith(MODULES) and "quantiz" in cls.__module__
        if (cls.__name__ in PACKED or ours) and not cls.__module__.startswith("torch.ao.nn.qat"):
            return f"lies in a quantized layer ({type(module).__name__}), which keeps no weights to mask: {FIRST}"
    return None


def opaque(parameter: Tensor) -> str | None:
    """Return why the numbers of a parameter cannot be masked, or None: quantized, or behind a class of tensors."""
    if isinstance(parameter, torch.sparse.SparseSemiStructuredTensor):
        return "has the form of 2:4 kernels: call sparsify.to_dense(model) first"
    kind = type(parameter)
    if isinstance(parameter, nn.UninitializedParameter) or hasattr(parameter, "device_mesh"):
        return None  # `unsuitable` has a sentence of its own
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ and kind not in (Tensor, nn.Parameter):
        return f"is held by a {kind.__name__}, a class of tensors of its own (quantized, as a rule): {FIRST}"
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        dtype = str(parameter.dtype).removeprefix("torch.")
        return f"is stored in {dtype}, and only {DTYPES} can be masked: {FIRST}"
    return None


def made(module: nn.Module, attribute: str) -> str | None:
    """Return why a weight that is no parameter cannot be masked, and what makes it one again; None if it is one."""
    if attribute in module._parameters or not (attribute in vars(module) or hasattr(type(module), attribute)):
        return None
    buffers, parameters = module._buffers, module._parameters
    if parametrize.is_parametrized(module, attribute):
        what, how = "computed by parametrizations (weight_norm, …)", "parametrize.remove_parametrizations"
    elif f"{attribute}_mask" in buffers:
        what, how = "pruned by torch.nn.utils.prune", "prune.remove"
    elif f"{attribute}_g" in parameters:
        what, how = "computed by weight_norm", "remove_weight_norm"
    elif f"{attribute}_orig" in parameters and f"{attribute}_u" in buffers:
        what, how = "computed by spectral_norm", "remove_spectral_norm"
    else:
        return "is computed from other parameters and cannot be masked"
    return f"is {what} and cannot be masked: call torch.nn.utils.{how}(module, {attribute!r}) before apply()"
