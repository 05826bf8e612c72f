"""Recipe versions: what is current, and how older ones become current.

To retire version n, register a function from the plain data of version n to that of version n + 1 under
`MIGRATIONS[n]`; it must not touch `version`. Files keep their line numbers wherever keys keep their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsify.errors import Mark, Problem, RecipeError
from sparsify.recipe.nodes import Leaf, Table, attach, plain

CURRENT = 1

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def migrate(root: Table) -> Table:
    """Return `root` as version `CURRENT`. Raises RecipeError for a future or a lost version.

    A missing version, or one that is no whole number, is left for validation to report with the rest.
    """
    found = root.entries.get("version")
    version = found.value if isinstance(found, Leaf) else None
    if found is None or isinstance(version, bool) or not isinstance(version, int):
        return root
    if version > CURRENT:
        raise _problem(
            f"version {version} is newer than this sparsify understands ({CURRENT}); upgrade sparsify-torch",
            found.mark,
        )
    data = plain(root)
    for old in range(version, CURRENT):
        if old not in MIGRATIONS:
            raise _problem(f"version {version} is not supported (current: {CURRENT})", found.mark)
        data = {**MIGRATIONS[old](data), "version": old + 1}
    moved = attach(data, root) if version < CURRENT else root
    assert isinstance(moved, Table)
    return moved


def _problem(message: str, mark: Mark) -> RecipeError:
    return RecipeError(Problem(message, "version", mark))
