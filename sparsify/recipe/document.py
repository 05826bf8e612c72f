"""From a file to a tree that only needs validating: read, migrate, extend, fill in the variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from sparsify.errors import Problem, RecipeError
from sparsify.recipe.expression import ExpressionError, Value, has_expression, substitute
from sparsify.recipe.extend import expand
from sparsify.recipe.library import find
from sparsify.recipe.migrate import migrate
from sparsify.recipe.nodes import Items, Leaf, Node, Path, Table, plain, show
from sparsify.recipe.reader import read_file, read_text
from sparsify.recipe.variables import Variable, check_overrides

BODIES = ("modifiers", "stages")
"""Where expressions are evaluated; elsewhere `${` is text."""


@dataclass(frozen=True)
class Filled:
    """A document with values for its variables.

    `source` still holds the expressions, and the values as overridden; `root` holds the results.
    `problems` were met on the way; nothing at or below a path in `hidden` is worth validating.
    """

    source: Table
    root: Table
    problems: list[Problem] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)


def load(path_or_name: str | File) -> Table:
    """Read a recipe by path or by name. Raises RecipeError."""
    file = path_or_name if isinstance(path_or_name, File) else find(path_or_name)
    return _complete(read_file(file), file)


def parse(text: str, name: str) -> Table:
    """Read a recipe from text; it may extend others by name only. Raises RecipeError."""
    return _complete(read_text(text, name), None)


def _complete(root: Node, file: File | None) -> Table:
    if not isinstance(root, Table):
        message = "a recipe is a mapping that begins with `version: 1`"
        raise RecipeError(Problem(message, mark=root.mark))
    return expand(migrate(root), file)


def fill(root: Table, overrides: Mapping[str, Any]) -> Filled:
    """Evaluate the expressions of a recipe, with `overrides` in place of the variables' defaults."""
    declared = _declared(root)
    wrong = check_overrides(declared, overrides)
    if wrong:
        mark = root.keys.get("variables", root.mark)
        return Filled(root, root, [Problem(message, mark=mark) for message in wrong], [()])
    values: dict[str, Value] = {name: overrides.get(name, variable.value) for name, variable in declared.items()}
    source = _with_values(root, overrides)
    pending = _names(root) - set(declared)
    filled = Filled(source, source)
    entries = {
        key: _fill(node, (key,), values, pending, filled) if key in BODIES else node
        for key, node in source.entries.items()
    }
    return Filled(source, Table(entries, root.mark, root.keys), filled.problems, filled.hidden)


def _names(root: Table) -> set[str]:
    variables = root.entries.get("variables")
    return set(variables.entries) if isinstance(variables, Table) else set()


def _declared(root: Table) -> dict[str, Variable]:
    """Return the variables that are sound; what is wrong with the others, validation will say."""
    variables = root.entries.get("variables")
    declared: dict[str, Variable] = {}
    for name, node in variables.entries.items() if isinstance(variables, Table) else ():
        try:
            declared[name] = Variable.model_validate(plain(node), by_alias=True, by_name=False)
        except ValidationError:
            continue
    return declared


def _with_values(root: Table, overrides: Mapping[str, Any]) -> Table:
    variables = root.entries.get("variables")
    if not overrides or not isinstance(variables, Table):
        return root
    entries = dict(variables.entries)
    for name, value in overrides.items():
        old = entries[name]
        leaf = Leaf(value, old.mark)
        entries[name] = Table({**old.entries, "value": leaf}, old.mark, old.keys) if isinstance(old, Table) else leaf
    table = Table(entries, variables.mark, variables.keys)
    return Table({**root.entries, "variables": table}, root.mark, root.keys)


def _fill(node: Node, path: Path, values: Mapping[str, Value], pending: set[str], filled: Filled) -> Node:
    if isinstance(node, Table):
        entries = {key: _fill(child, (*path, key), values, pending, filled) for key, child in node.entries.items()}
        return Table(entries, node.mark, node.keys)
    if isinstance(node, Items):
        items = [_fill(child, (*path, index), values, pending, filled) for index, child in enumerate(node.items)]
        return Items(tuple(items), node.mark)
    if not isinstance(node.value, str) or not has_expression(node.value):
        return node
    try:
        if path[-1] == "type":
            raise ExpressionError("a type is written out, not computed")
        return Leaf(substitute(node.value, values), node.mark)
    except ExpressionError as error:
        if not any(repr(name) in str(error) for name in pending):
            filled.problems.append(Problem(str(error), show(path), node.mark))
        filled.hidden.append(path)
        return node
