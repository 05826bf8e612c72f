"""The sparse engine: PyTorch as it is, but for linear layers that the engine multiplies faster."""

from __future__ import annotations

import copy
from typing import ClassVar

from torch import nn

from sparsify.benchmarking.engines.base import Bind, Forward, Inputs, Prepared
from sparsify.benchmarking.engines.eager import Eager
from sparsify.benchmarking.loading import load_model
from sparsify.engine import accelerate, missing
from sparsify.report.latency import Call


class Sparse(Eager):
    """`sparse`."""

    name: ClassVar[str] = "sparse"
    about: ClassVar[str] = "the sparse engine multiplies by what is not zero"
    skips_zeros: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Look for the engine's library."""
        return missing()

    def open(self, prepared: Prepared, threads: int) -> Bind:
        """Load the model unless it is there; for each shape of inputs the kernels are chosen anew."""
        model = prepared.model if prepared.model is not None else load_model(prepared.path)

        def bind(inputs: Inputs) -> Call:
            mine = _apart(model)
            accelerate(mine, sample=dict(inputs))
            return Forward(mine, inputs)

        return bind


def _apart(model: nn.Module) -> nn.Module:
    """Return a copy with modules of its own and the same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
