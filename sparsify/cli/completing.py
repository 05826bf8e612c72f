"""What the shell offers after TAB: words of a flag, recipes by name or by path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sparsify.files import contents
from sparsify.recipe.library import SUFFIXES, means_a_recipe, names

Complete = Callable[[str], list[str]]


def words(*choices: str) -> Complete:
    """Return the completion of a flag that is one of some words, or several with commas between."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{choice}" for choice in choices if choice.startswith(last)]

    return complete


def recipes(incomplete: str) -> list[str]:
    """Return the recipes that begin so: by name along the search path, by path as far as it is written."""
    folder = os.path.dirname(incomplete)
    paths = [str(path) + os.sep * path.is_dir() for path in contents(folder or os.curdir) if _may_lead(path)]
    by_name = {} if folder else {name: path for name, (_, path) in names().items() if name.startswith(incomplete)}
    found = [*sorted(name for name, path in by_name.items() if means_a_recipe(path)), *paths]
    return [name for name in found if name.startswith(incomplete) and name.isprintable()]


def _may_lead(path: Path) -> bool:
    """Whether a path is a recipe's, or a folder that may hold one."""
    if path.suffix.lower() in SUFFIXES:
        return means_a_recipe(path)
    return path.is_dir() and not path.name.startswith(".")
