"""A YAML document as a tree in which every node knows its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from sparsify.errors import Mark

Path = tuple[str | int, ...]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Leaf:
    """A scalar."""

    value: Scalar
    mark: Mark


@dataclass(frozen=True)
class Items:
    """A sequence."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True)
class Table:
    """A mapping with string keys; `keys` holds the place of each key."""

    entries: dict[str, Node]
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)


Node = Union[Leaf, Items, Table]  # noqa: UP007 (evaluated at run time on 3.10)


def plain(node: Node) -> Any:
    """Return the tree as dicts, lists and scalars."""
    if isinstance(node, Table):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return node.value


def attach(data: Any, near: Node) -> Node:
    """Return plain `data` as a tree that takes its places from `near` as far as the two agree."""
    if isinstance(data, dict):
        known = near if isinstance(near, Table) else Table({}, near.mark)
        return Table(
            {key: attach(value, known.entries.get(key, near)) for key, value in data.items()},
            near.mark,
            {key: known.keys.get(key, near.mark) for key in data},
        )
    if isinstance(data, list):
        items: Sequence[Node] = near.items if isinstance(near, Items) else ()
        return Items(
            tuple(attach(value, items[index] if index < len(items) else near) for index, value in enumerate(data)),
            near.mark,
        )
    return Leaf(data, near.mark)


def step(node: Node, key: str | int) -> Node | None:
    """Return the child under `key`, or None."""
    if isinstance(node, Table) and isinstance(key, str):
        return node.entries.get(key)
    if isinstance(node, Items) and isinstance(key, int) and 0 <= key < len(node.items):
        return node.items[key]
    return None


def locate(root: Node, path: Path) -> tuple[Path, Mark]:
    """Return the longest part of `path` that exists, and its place: of the key for a key, else of the node."""
    node, mark, found = root, root.mark, 0
    for key in path:
        child = step(node, key)
        if child is None:
            break
        mark = node.keys.get(str(key), child.mark) if isinstance(node, Table) else child.mark
        node, found = child, found + 1
    return path[:found], mark


def show(path: Path) -> str:
    """Write a path as `stages[0].modifiers[2].window`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text
