"""sparsify: write a recipe in YAML; get a smaller, faster PyTorch model out of your own training loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsify._version import __version__

if TYPE_CHECKING:
    from sparsify.compaction import compact, load, save
    from sparsify.density import Density, measure
    from sparsify.errors import (
        CompactionError,
        HookError,
        KernelError,
        PlanError,
        RecipeError,
        ScoreError,
        SparsifyError,
        SparsityError,
        StateError,
    )
    from sparsify.layers import register_layer
    from sparsify.manager import Manager
    from sparsify.permuting import permute_for_n_m
    from sparsify.plan import Plan
    from sparsify.recipe import Recipe
    from sparsify.semi import to_dense, to_semi_structured

_PUBLIC = {
    "CompactionError": "errors",
    "Density": "density",
    "HookError": "errors",
    "KernelError": "errors",
    "Manager": "manager",
    "Plan": "plan",
    "PlanError": "errors",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "ScoreError": "errors",
    "SparsifyError": "errors",
    "SparsityError": "errors",
    "StateError": "errors",
    "compact": "compaction",
    "load": "compaction",
    "measure": "density",
    "permute_for_n_m": "permuting",
    "register_layer": "layers",
    "save": "compaction",
    "to_dense": "semi",
    "to_semi_structured": "semi",
}

__all__ = [
    "CompactionError",
    "Density",
    "HookError",
    "KernelError",
    "Manager",
    "Plan",
    "PlanError",
    "Recipe",
    "RecipeError",
    "ScoreError",
    "SparsifyError",
    "SparsityError",
    "StateError",
    "__version__",
    "compact",
    "load",
    "measure",
    "permute_for_n_m",
    "register_layer",
    "save",
    "to_dense",
    "to_semi_structured",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import sparsify` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sparsify' has no attribute {name!r}")
    return getattr(import_module(f"sparsify.{_PUBLIC[name]}"), name)
