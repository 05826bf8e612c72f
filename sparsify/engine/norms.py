"""Batch norms behind convolutions: in evaluation a factor and an addend for each channel, which the kernel applies.

The weight stays as it is, so that nothing is rounded twice and all can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.engine import fusing
from sparsify.errors import KernelError

CACHE = "sparsify_terms"
"""An attribute of a convolution: the terms, and the tensors and versions of which they were made."""


class FusedNorm1d(fusing.Fused, nn.BatchNorm1d):
    """A batch norm that the convolution before it has computed already."""


class FusedNorm2d(fusing.Fused, nn.BatchNorm2d):
    """A batch norm that the convolution before it has computed already."""


FUSED: Mapping[type[nn.Module], type[fusing.Fused]] = {nn.BatchNorm1d: FusedNorm1d, nn.BatchNorm2d: FusedNorm2d}


def followers(model: nn.Module, layers: Mapping[str, nn.Module], sample: Any) -> dict[str, str]:
    """Return the name of the batch norm that follows a convolution, by the convolution's name.

    What counts is what happens on the sample, as for activations. Raises KernelError where the model cannot be run.
    """
    norms = {name: module for name, module in model.named_modules() if type(module) in FUSED}
    found = fusing.handed_on(model, layers, norms, sample)
    return {layer: norm for layer, norm in found.items() if fits(layers[layer], norms[norm])}


def fits(layer: nn.Module, norm: nn.Module | None) -> bool:
    """Whether a norm is a factor and an addend for each output of a convolution, and computes nothing else."""
    made: Any = norm
    if type(norm) not in FUSED or made.num_features != getattr(layer, "out_channels", None) or fusing.is_hooked(made):
        return False
    tensors = [made.running_mean, made.running_var, made.weight, made.bias]
    known = all(each is None or (each.dtype == torch.float32 and each.device.type == "cpu") for each in tensors)
    return known and made.running_mean is not None and made.running_var is not None


def terms(layer: nn.Module, norm: nn.Module, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (factor, addend) of float32 for each output: the norm of an output + `bias`.

    They are made again when a tensor of which they were made is another, or was changed in place. Raises KernelError
    while the norm would look at its batch.
    """
    made: Any = norm
    if made.training:
        raise KernelError(
            "a batch norm that is computed with a sparse convolution is in training mode: call model.eval(), or "
            "sparsify.engine.restore(model)"
        )
    tensors: list[Any] = [made.running_mean, made.running_var, made.weight, made.bias, bias]
    if torch.compiler.is_compiling():
        return _terms(made.eps, *tensors)
    seen = [(each, each._version) for each in tensors if each is not None and not each.is_inference()]
    kept = vars(layer).get(CACHE)
    if kept is not None and len(seen) == sum(each is not None for each in tensors) and _same(kept[0], seen):
        return kept[1], kept[2]
    scale, shift = _terms(made.eps, *tensors)
    vars(layer)[CACHE] = seen, scale, shift
    return scale, shift


def _same(before: list[tuple[Tensor, int]], now: list[tuple[Tensor, int]]) -> bool:
    return len(before) == len(now) and all(
        one is two and old == new for (one, old), (two, new) in zip(before, now, strict=True)
    )


@torch.no_grad()
def _terms(
    eps: float, mean: Tensor, variance: Tensor, weight: Tensor | None, addend: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * scale
    if addend is not None:
        shift = shift + addend.double()
    return scale.float(), shift.float()
