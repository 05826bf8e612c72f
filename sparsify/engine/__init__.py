"""The sparse engine: linear layers and convolutions multiplied by what is not zero, on the CPU.

`accelerate` changes a model's layers where that is faster, `restore` takes it back. Needs a library that is compiled
when the package is installed (`missing()` says why it is not there); what is here is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsify.engine.attention import attend
    from sparsify.engine.chosen import Choice, Chosen
    from sparsify.engine.convolution import Window, sparse_convolution
    from sparsify.engine.layer import SparseLinear
    from sparsify.engine.library import instructions, missing
    from sparsify.engine.operator import sparse_linear
    from sparsify.engine.packed import pack, unpack
    from sparsify.engine.pipelines import pipeline
    from sparsify.engine.rate import peak
    from sparsify.engine.saved import load, save_choices
    from sparsify.engine.whole import accelerate, restore

_PUBLIC = {
    "Choice": "chosen",
    "Chosen": "chosen",
    "SparseLinear": "layer",
    "Window": "convolution",
    "accelerate": "whole",
    "attend": "attention",
    "instructions": "library",
    "load": "saved",
    "missing": "library",
    "pack": "packed",
    "peak": "rate",
    "pipeline": "pipelines",
    "restore": "whole",
    "save_choices": "saved",
    "sparse_convolution": "convolution",
    "sparse_linear": "operator",
    "unpack": "packed",
}

__all__ = [
    "Choice", "Chosen", "SparseLinear", "Window", "accelerate", "attend", "instructions", "load", "missing", "pack",
    "peak", "pipeline", "restore", "save_choices", "sparse_convolution", "sparse_linear", "unpack",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
