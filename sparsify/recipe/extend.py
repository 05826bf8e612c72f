"""`extends`: one recipe on top of another.

Mappings are merged key by key; everything else of the child replaces the parent's. A child's `modifiers`
replace the parent's `stages`, and the other way round. A bare variable `v` overrides the parent's value
and keeps its bounds.
"""

from __future__ import annotations

import os
from pathlib import Path

from sparsify.errors import Problem, RecipeError
from sparsify.recipe.library import find, is_path
from sparsify.recipe.migrate import migrate
from sparsify.recipe.nodes import Leaf, Node, Table
from sparsify.recipe.reader import read_file

LONGEST_CHAIN = 16
_BODIES = ("modifiers", "stages")
_OWN = ("name", "summary", "about")
"""What describes one recipe and is not inherited."""


def expand(root: Table, file: Path | None, chain: tuple[Path, ...] = ()) -> Table:
    """Return `root` merged onto what it extends. Raises RecipeError for cycles and paths that escape."""
    wanted = root.entries.get("extends")
    if wanted is None:
        return root
    if not isinstance(wanted, Leaf) or not isinstance(wanted.value, str):
        raise RecipeError(Problem("expected the name or the relative path of a recipe", "extends", wanted.mark))
    chain = (*chain, _real(file)) if file else chain
    parent_file = _resolve(wanted, file, chain)
    if _real(parent_file) in chain:
        names = " → ".join(path.name for path in (*chain, parent_file))
        raise RecipeError(Problem(f"a circle: {names}", "extends", wanted.mark))
    if len(chain) >= LONGEST_CHAIN:
        raise RecipeError(Problem(f"a chain of more than {LONGEST_CHAIN} recipes", "extends", wanted.mark))
    parent = read_file(parent_file)
    if not isinstance(parent, Table):
        raise RecipeError(Problem("a recipe is a mapping", mark=parent.mark))
    return merge(expand(migrate(parent), parent_file, chain), root)


def _resolve(wanted: Leaf, file: Path | None, chain: tuple[Path, ...]) -> Path:
    name = str(wanted.value)
    if not is_path(name):
        try:
            return find(name)
        except RecipeError as error:
            raise RecipeError(Problem(str(error), "extends", wanted.mark)) from None
    if file is None:
        raise RecipeError(Problem("a recipe without a file can extend by name only", "extends", wanted.mark))
    folder = _real(file).parent
    root = next((path.parent for path in chain if folder.is_relative_to(path.parent)), folder)
    try:
        path = _real(folder / name)
        exists = path.exists()
    except (OSError, ValueError):  # too long, in a folder that may not be read, or holding a NUL
        raise RecipeError(Problem("not a path", "extends", wanted.mark)) from None
    if Path(name).is_absolute() or not path.is_relative_to(root):
        raise RecipeError(Problem(f"{name!r} leaves the folder of the recipe", "extends", wanted.mark))
    if not exists:
        raise RecipeError(Problem(f"no such file: {name!r}", "extends", wanted.mark))
    return path


def _real(path: Path) -> Path:
    """Return a path without its links; a link that leads to itself stays (`Path.resolve` raises before Python 3.13)."""
    return Path(os.path.realpath(path))


def merge(parent: Table, child: Table) -> Table:
    """Return `child` on top of `parent`, whole recipes both."""
    parent = _without(parent, *_OWN)
    if any(body in child.entries for body in _BODIES):
        parent = _without(parent, *_BODIES)
    merged = _merge(_spelled_out(parent), _spelled_out(_without(child, "extends")))
    return Table(merged.entries, child.mark, merged.keys)


def _merge(parent: Table, child: Table) -> Table:
    entries = dict(parent.entries)
    for key, value in child.entries.items():
        old = entries.get(key)
        both = isinstance(old, Table) and isinstance(value, Table)
        entries[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return Table(entries, child.mark, {**parent.keys, **child.keys})


def _without(table: Table, *names: str) -> Table:
    return Table({k: v for k, v in table.entries.items() if k not in names}, table.mark, table.keys)


def _spelled_out(root: Table) -> Table:
    """Write bare variables as `{value: …}`, so that they merge with the full form."""
    variables = root.entries.get("variables")
    if not isinstance(variables, Table):
        return root
    full: dict[str, Node] = {
        name: node if isinstance(node, Table) else Table({"value": node}, node.mark, {"value": node.mark})
        for name, node in variables.entries.items()
    }
    return Table({**root.entries, "variables": Table(full, variables.mark, variables.keys)}, root.mark, root.keys)
