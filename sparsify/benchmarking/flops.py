"""Floating-point operations of a forward: all of them, and those that are left without the zeros of the weights."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparsify.masking import count_zeros

UNKNOWN = ("mm", "rnn", "lstm", "gru", "conv", "linear", "attention", "transformer")
"""Parts of names of operations that multiply matrices; one with a weight that torch cannot count is named."""


class Flops(BaseModel):
    """Operations of matrix products and convolutions; a multiplication with its addition counts as two."""

    model_config = ConfigDict(frozen=True, strict=True)

    dense: int
    effective: int
    """Those with a weight that is not zero, and those without any weight (attention)."""

    weights: int
    """Of the dense ones, those with a weight."""

    uncounted: list[str] = []
    """Operations with weights in them for which there is no rule."""


def count_flops(model: nn.Module, inputs: Mapping[str, Tensor]) -> Flops:
    """Run a forward and count. Attention is written out meanwhile, since its fused forms on CPUs have no rule."""
    mode = _Counting(model)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _without_fast_paths(), warnings.catch_warnings(), mode:
        warnings.simplefilter("ignore")
        model(**inputs)
    return Flops(
        dense=mode.dense, effective=round(mode.effective), weights=mode.weights, uncounted=sorted(mode.uncounted)
    )


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    """Let layers of `nn.Transformer` run part by part."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation as it is run, with its operands."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.densities: dict[tuple[Any, ...], float] = {}
        self.dense = self.weights = 0
        self.effective = 0.0
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        operands = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        found = [value for value in operands if self._is_weight(value)]
        if packet in flop_registry:
            flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
            self.dense += flops
            self.weights += flops if found else 0
            density = 1.0
            for weight in found:
                density *= self._density(weight)
            self.effective += flops * density
        elif found and any(word in str(packet) for word in UNKNOWN):
            self.uncounted[str(packet)] += 1
        return out

    def _is_weight(self, value: Tensor) -> bool:
        """Whether it is a matrix, or a view of one, of the model; biases only add."""
        return value.dim() > 1 and value.untyped_storage().data_ptr() in self.parameters

    def _density(self, weight: Tensor) -> float:
        """Return the fraction of a matrix that is not zero; in a product, each number takes part equally often."""
        key = (weight.data_ptr(), weight.shape, weight.stride())
        if key not in self.densities:
            self.densities[key] = 1 - count_zeros(weight) / max(weight.numel(), 1)
        return self.densities[key]
