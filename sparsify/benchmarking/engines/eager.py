"""PyTorch as it is: one operation after the other."""

from __future__ import annotations

from typing import ClassVar

import torch

from sparsify.benchmarking.engines.base import Bind, Engine, Inputs, Prepared
from sparsify.benchmarking.loading import load_model
from sparsify.report.latency import Call


class Eager(Engine):
    """`torch`."""

    name: ClassVar[str] = "torch"
    about: ClassVar[str] = "PyTorch's kernels multiply dense matrices"

    def load(self) -> None:
        """Import transformers."""
        import transformers  # noqa: F401

    def open(self, prepared: Prepared, threads: int) -> Bind:
        """Load the model unless it is there."""
        model = prepared.model if prepared.model is not None else load_model(prepared.path)

        def bind(inputs: Inputs) -> Call:
            @torch.inference_mode()
            def call() -> object:
                return model(**inputs)

            return call

        return bind
