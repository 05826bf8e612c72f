"""Text → a frozen, validated `Recipe`: strict YAML, variables, errors with line and column."""

from sparsify.recipe.about import About, Result
from sparsify.recipe.recipe import Recipe, Stage
from sparsify.recipe.variables import Binding, Variable

__all__ = ["About", "Binding", "Recipe", "Result", "Stage", "Variable"]
