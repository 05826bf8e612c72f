"""The sparse engine: linear layers multiplied by what is not zero, on the CPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsify.engine.pipelines import pipeline

_PUBLIC = {
    "pipeline": "pipelines",
}

__all__ = ["pipeline"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
