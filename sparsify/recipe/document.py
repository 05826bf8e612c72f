"""From a file to a tree that only needs validating: read, migrate, extend, fill in the variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from sparsify.errors import Problem, RecipeError
from sparsify.recipe.expression import LONGEST_TEXT, TOO_LONG, ExpressionError, Value, has_expression, substitute
from sparsify.recipe.extend import expand
from sparsify.recipe.library import find
from sparsify.recipe.migrate import migrate
from sparsify.recipe.nodes import Items, Leaf, Node, Path, Table, plain, show
from sparsify.recipe.reader import read_file, read_text
from sparsify.recipe.variables import Variable, check_overrides

BODIES = ("modifiers", "stages")
"""Where expressions are evaluated; elsewhere `${` is text."""
MOST_PROBLEMS = 100
"""Expressions that are explained when they are wrong; the others go unmentioned until these are mended."""


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
    filling = _Filling(values, _names(root) - set(declared))
    entries = {key: filling.fill(node, (key,)) if key in BODIES else node for key, node in source.entries.items()}
    return Filled(source, Table(entries, root.mark, root.keys), filling.problems, filling.hidden)


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


class _Filling:
    """Evaluates the expressions of one document, counting the characters that they give."""

    def __init__(self, values: Mapping[str, Value], pending: set[str]) -> None:
        self.values, self.pending = values, pending
        self.problems: list[Problem] = []
        self.hidden: list[Path] = []
        self.room = LONGEST_TEXT

    def fill(self, node: Node, path: Path) -> Node:
        if isinstance(node, Table):
            entries = {key: self.fill(child, (*path, key)) for key, child in node.entries.items()}
            return Table(entries, node.mark, node.keys)
        if isinstance(node, Items):
            return Items(tuple(self.fill(child, (*path, index)) for index, child in enumerate(node.items)), node.mark)
        if not isinstance(node.value, str) or not has_expression(node.value):
            return node
        if len(self.problems) >= MOST_PROBLEMS:
            self.hidden.append(path)
            return node
        try:
            return Leaf(self._evaluate(node.value, path), node.mark)
        except ExpressionError as error:
            if error.unknown not in self.pending:
                self.problems.append(Problem(str(error), show(path), node.mark))
            self.hidden.append(path)
            return node

    def _evaluate(self, text: str, path: Path) -> Value:
        if path[-1] == "type":
            raise ExpressionError("a type is written out, not computed")
        value = substitute(text, self.values, self.room)
        self.room -= len(value) if isinstance(value, str) else 0
        if self.room < 0:
            raise ExpressionError(TOO_LONG)
        return value
