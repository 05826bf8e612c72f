"""The engines, by name."""

from __future__ import annotations

from sparsify.benchmarking.engines.base import Bind, Engine, Forward, Inputs, Prepared
from sparsify.benchmarking.engines.compiled import Compiled
from sparsify.benchmarking.engines.eager import Eager
from sparsify.benchmarking.engines.runtime import Runtime
from sparsify.benchmarking.engines.sparse import Sparse

__all__ = ["ENGINES", "Bind", "Engine", "Forward", "Inputs", "Prepared"]

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Eager(), Compiled(), Runtime(), Sparse())}
