"""sparsify: write a recipe in YAML; get a smaller, faster PyTorch model out of your own training loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparsify._version import __version__

if TYPE_CHECKING:
    from sparsify.density import Density, measure
    from sparsify.errors import (
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
    "measure": "density",
    "register_layer": "layers",
}

__all__ = [
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
    "measure",
    "register_layer",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that `import sparsify` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sparsify' has no attribute {name!r}")
    return getattr(import_module(f"sparsify.{_PUBLIC[name]}"), name)
