"""From pydantic's errors to sentences with a place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from sparsify.errors import Mark, Problem, did_you_mean
from sparsify.escaping import quoted
from sparsify.recipe.nodes import Node, Path, Table, locate, show, step

_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
}


def problems_of(error: ValidationError, root: Node | None, hidden: Iterable[Path] = ()) -> list[Problem]:
    """Return every problem in `error`, placed in the tree `root`, but those at or below a `hidden` path."""
    skip = set(hidden)
    found: dict[tuple[Path, Mark | None], list[Any]] = {}
    for line in error.errors(include_url=False):
        if line["type"] == "too_short" and len(line["input"]) >= line["ctx"]["min_length"]:
            continue  # pydantic counts only the items that are valid
        missing = line["type"] == "missing"
        path = (*_path(line["loc"][:-1], root), line["loc"][-1]) if missing else _path(line["loc"], root)
        if skip and any(path[:length] in skip for length in range(len(path) + 1)):
            continue
        place = path[:-1] if missing else path
        mark = locate(root, place)[1] if root else None
        found.setdefault((path, mark), []).append(line)
    return [
        Problem(_sentence(lines), show(path[:-1] if lines[0]["type"] == "missing" else path), mark)
        for (path, mark), lines in found.items()
    ]


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by place, those without one first, and drop repetitions."""

    def place(problem: Problem) -> tuple[str, int, int, str]:
        mark = problem.mark
        return (mark.file, mark.line, mark.column, problem.message) if mark else ("", 0, 0, problem.message)

    return sorted(dict.fromkeys(problems), key=place)


def _path(loc: tuple[str | int, ...], root: Node | None) -> Path:
    """Drop from pydantic's location what is not in the file, such as names of union members."""
    path: list[str | int] = []
    node = root
    for index, key in enumerate(loc):
        child = step(node, key) if node is not None else None
        if child is None and node is not None and not (isinstance(node, Table) and index == len(loc) - 1):
            continue
        path.append(key)
        node = child
    return tuple(path)


def _sentence(lines: list[Any]) -> str:
    """Say what is wrong at one place; the branches of a union become one sentence."""
    sentences = list(dict.fromkeys(_one(line) for line in lines))
    if len(sentences) == 1:
        return sentences[0]
    wanted = [match[1] for text in sentences if (match := re.match(r"expected (.*?), got ", text))]
    if len(wanted) == len(sentences):
        return f"expected {' or '.join(wanted)}, got {_shown(lines[0]['input'])}"
    return "; or ".join(sentences)


def _one(line: Any) -> str:
    kind, value, context = line["type"], line["input"], line.get("ctx", {})
    got = _shown(value)
    if kind == "sparsify":
        return str(context["text"])
    if kind == "missing":
        return f"missing key {str(line['loc'][-1])!r}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        hint = did_you_mean(value, choices, most=0) if isinstance(value, str) else ""
        return f"expected {context['expected']}, got {got}{hint}"
    bounds = {"greater_than_equal": "ge", "less_than_equal": "le", "greater_than": "gt", "less_than": "lt"}
    if kind in bounds:
        words = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
        return f"must be {words[bounds[kind]]} {context[bounds[kind]]:g}, got {got}"
    if kind == "string_pattern_mismatch":
        return f"{got} does not match {context['pattern']}"
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length" if kind == "too_short" else "max_length")
        least = "at least" if kind == "too_short" else "at most"
        return f"expected {least} {bound} item{'' if bound == 1 else 's'}, got {got}"
    if kind == "string_too_long":
        return f"expected at most {context['max_length']} characters, got {got}"
    if kind == "string_too_short":
        return "must not be empty"
    if match := re.match(r"(int|float|string|bool|list|tuple|dict|model|dataclass)_(type|parsing)", kind):
        return f"expected {_NAMES[match[1]]}, got {got}"
    return str(line["msg"])


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, str) and len(value) > 58:
        value = value[:54] + "…"
    return quoted(value)
