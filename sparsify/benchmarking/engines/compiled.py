"""`torch.compile`, for each shape of inputs anew."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch

from sparsify.benchmarking.engines.base import Bind, Inputs, Prepared
from sparsify.benchmarking.engines.eager import Eager
from sparsify.benchmarking.loading import load_model
from sparsify.errors import BenchmarkError, first_line
from sparsify.report.latency import Call


class Compiled(Eager):
    """`torch-compile`."""

    name: ClassVar[str] = "torch-compile"
    about: ClassVar[str] = "compiled PyTorch multiplies dense matrices"
    shows_layers: ClassVar[bool] = False

    def missing(self) -> str | None:
        """Compile a small function."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.compile(_small)(torch.ones(4))
        except Exception as error:  # the compiler raises of every kind
            return f"torch.compile does not work here ({first_line(error)}): install a C++ compiler"
        return None

    def open(self, prepared: Prepared, threads: int) -> Bind:
        """Load the model unless it is there."""
        model = prepared.model if prepared.model is not None else load_model(prepared.path)

        def bind(inputs: Inputs) -> Call:
            compiled: Any = torch.compile(model, dynamic=False)

            @torch.inference_mode()
            def call() -> object:
                return compiled(**inputs)

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's, about numbers that it finds fast enough
                try:
                    with _strict():
                        call()
                except Exception as error:  # the compiler raises of every kind
                    kind = type(model).__name__
                    raise BenchmarkError(f"{kind} cannot be compiled by torch: {first_line(error)}") from None
            return call

        return bind


def _strict() -> Any:
    """Let the compiler fail, rather than run what it has not compiled, when it has compiled too often."""
    import torch._dynamo.config as settings

    wanted = {"fail_on_recompile_limit_hit": True, "recompile_limit": 256, "cache_size_limit": 256}
    there: dict[str, Any] = {name: value for name, value in wanted.items() if hasattr(settings, name)}
    if "recompile_limit" in there:
        there.pop("cache_size_limit", None)  # its older name
    return settings.patch(there)


def _small(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
