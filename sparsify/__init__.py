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
        PlanError,
        RecipeError,
        ScoreError,
        SparsifyError,
        SparsityError,
        StateError,
    )
    from sparsify.layers import register_layer
    from sparsify.manager import Manager
    from sparsify.plan import Plan
    from sparsify.recipe import Recipe

_PUBLIC = {
    "CompactionError": "errors",
    "Density": "density",
    "HookError": "errors",
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
    "register_layer": "layers",
    "save": "compaction",
}

__all__ = [
    "CompactionError",
    "Density",
    "HookError",
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
    "register_layer",
    "save",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import sparsify` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sparsify' has no attribute {name!r}")
    return getattr(import_module(f"sparsify.{_PUBLIC[name]}"), name)
