"""PyTorch as it is: one operation after the other."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from sparsify.benchmarking.engines.base import Bind, Engine, Forward, Prepared
from sparsify.benchmarking.loading import load_model


class Eager(Engine):
    """`torch`."""

    name: ClassVar[str] = "torch"
    about: ClassVar[str] = "PyTorch's kernels multiply dense matrices"
    shows_layers: ClassVar[bool] = True

    def load(self) -> None:
        """Import transformers."""
        import transformers  # noqa: F401

    def open(self, prepared: Prepared, threads: int) -> Bind:
        """Load the model unless it is there."""
        model = prepared.model if prepared.model is not None else load_model(prepared.path)

        return partial(Forward, model)
