"""Strict YAML: text → nodes. The YAML 1.2 core schema, no tags, no duplicate keys, bounded everything.

PyYAML's parser gives the events; what they mean is decided here, since YAML 1.1 would read `2:4` as 124,
`on` as true, `012` as ten and `1e-5` as a string.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sparsify.errors import Mark, Problem, RecipeError
from sparsify.escaping import is_text, joined
from sparsify.files import read_bytes as read_raw
from sparsify.recipe.nodes import Items, Leaf, Node, Scalar, Table
from sparsify.recipe.scalars import key, scalar

LARGEST = 1 << 20
"""Bytes of a file, and characters of all its strings after aliases (and later variables) are expanded."""
DEEPEST = 64
MOST_NODES = 20_000
"""Nodes after aliases are expanded; an alias bomb ends here."""


def read_file(path: Path) -> Node:
    """Read a `.yaml` file, or the front matter of a `.md` file. Raises RecipeError."""
    return read_text(source(path), str(path), front_matter=_is_markdown(path))


def source(path: Path) -> str:
    """Return the text of a recipe's file as it stands. Raises RecipeError."""
    name = str(path)
    try:
        raw = read_raw(path, LARGEST)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        reason += ", not a recipe" if error.errno in (errno.EISDIR, errno.EINVAL) else ""
        raise RecipeError(Problem(f"cannot be read: {reason}", mark=Mark(name, 1, 1))) from None
    return _decoded(raw, name)


def read_bytes(raw: bytes, name: str) -> Node:
    """Read a document from bytes; `name` stands for the file in messages. Raises RecipeError."""
    return read_text(_decoded(raw, name), name)


def _is_markdown(path: Path) -> bool:
    return path.suffix.lower() == ".md"


def _decoded(raw: bytes, name: str) -> str:
    start = Mark(name, 1, 1)
    if len(raw) > LARGEST:
        raise RecipeError(Problem(f"larger than {LARGEST} bytes: not a recipe", mark=start))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError(Problem("encoded as UTF-16; save it as UTF-8", mark=start))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        mark = Mark(name, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise RecipeError(Problem("not UTF-8 text; save it as UTF-8", mark=mark)) from None


def read_text(text: str, name: str = "<recipe>", *, front_matter: bool = False) -> Node:
    """Read a document from text. Raises RecipeError at the first thing that is not strict YAML."""
    if len(text) > LARGEST:
        raise RecipeError(Problem(f"larger than {LARGEST} bytes: not a recipe", mark=Mark(name, 1, 1)))
    if front_matter:
        text = _front_matter(text, name)
    return _Builder(name).build(text)


def _front_matter(text: str, name: str) -> str:
    """Return what stands between the `---` of the first line and the next, with line numbers kept."""
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        message = "a Markdown recipe begins with `---`, the recipe, and `---`"
        raise RecipeError(Problem(message, mark=Mark(name, 1, 1)))
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() in ("---", "..."):
            return "\n" + "".join(lines[1:number])
    raise RecipeError(Problem("the front matter is never closed by `---`", mark=Mark(name, 1, 1)))


class _Builder:
    """Turns the parser's events into nodes, without recursion, counting as it goes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.anchors: dict[str, _Anchored | None] = {}
        self.nodes = self.characters = 0

    def build(self, text: str) -> Node:
        try:
            return self._document(self._events(text))
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            mark = Mark(self.name, before.count("\n") + 1, len(before) - before.rfind("\n"))
            character = error.character
            code = f"U+{ord(character) if isinstance(character, str) else int(character):04X}"
            raise RecipeError(Problem(f"the character {code} is not allowed", mark=mark)) from None
        except yaml.MarkedYAMLError as error:
            place = error.problem_mark or error.context_mark
            mark = self._mark(place) if place else Mark(self.name, 1, 1)
            context = f" {error.context}" if error.context and error.problem else ""
            raise RecipeError(Problem(f"not YAML: {error.problem or error.context}{context}", mark=mark)) from None

    def _events(self, text: str) -> Iterator[yaml.Event]:
        """Yield the parser's events; it lets Python's own errors out for numbers and escapes out of range."""
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        last: Any = None
        while True:
            try:
                event = next(events)
            except StopIteration:
                return
            except (ValueError, OverflowError):
                mark = self._mark(last.end_mark) if last else Mark(self.name, 1, 1)
                raise RecipeError(
                    Problem("not YAML: a number or an escape out of range after here", mark=mark)
                ) from None
            last = event
            yield event

    def _document(self, events: Iterator[yaml.Event]) -> Node:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._fail(event.start_mark, "a second document; a recipe file holds one recipe")
                if event.tags or event.version:
                    self._fail(event.start_mark, "YAML directives are not allowed in recipes")
            elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent, yaml.AliasEvent)):
                root = self._tree(event, events)
        if root is None or (isinstance(root, Leaf) and root.value is None):
            raise RecipeError(Problem("the file is empty", mark=Mark(self.name, 1, 1)))
        return root

    def _tree(self, first: yaml.Event, events: Iterator[yaml.Event]) -> Node:
        """Build one tree from the events, holding the open collections in a stack."""
        stack: list[_Open] = []
        event = first
        while True:
            made: _Anchored | None = None
            if isinstance(event, yaml.CollectionEndEvent):
                top = stack.pop()
                made = _Anchored(top.close(), top.height + 1, top.size, top.characters)
                if top.anchor:
                    self.anchors[top.anchor] = made
            elif isinstance(event, yaml.AliasEvent):
                made = self._alias(event)
                self._grow(event, made.size, made.characters)
            elif isinstance(event, yaml.ScalarEvent):
                self._grow(event, 1, len(event.value))
                made = self._leaf(event, is_key=bool(stack) and stack[-1].wants_key())
            elif isinstance(event, yaml.CollectionStartEvent):
                self._grow(event, 1, 0)
                stack.append(self._open(event, stack))
            if made is not None:
                if not stack:
                    return made.node
                if len(stack) + made.height > DEEPEST:
                    self._fail(event.start_mark, f"nested deeper than {DEEPEST} levels")
                stack[-1].add(self, made, event)
            event = next(events)

    def _open(self, event: yaml.CollectionStartEvent, stack: list[_Open]) -> _Open:
        self._no_tag(event)
        if stack and stack[-1].wants_key():
            self._fail(event.start_mark, "a key must be a plain string")
        if len(stack) >= DEEPEST:
            self._fail(event.start_mark, f"nested deeper than {DEEPEST} levels")
        if event.anchor:
            self.anchors[event.anchor] = None  # being built: an alias to it would be a cycle
        return _Open(self._mark(event.start_mark), isinstance(event, yaml.MappingStartEvent), event.anchor)

    def _alias(self, event: yaml.AliasEvent) -> _Anchored:
        if event.anchor not in self.anchors:
            self._fail(event.start_mark, f"the alias *{event.anchor} has no anchor before it")
        found = self.anchors[event.anchor]
        if found is None:
            self._fail(event.start_mark, f"the alias *{event.anchor} contains itself")
        return found

    def _leaf(self, event: yaml.ScalarEvent, *, is_key: bool) -> _Anchored:
        self._no_tag(event)
        text = joined(event.value)
        if not is_text(text):
            self._fail(event.start_mark, "half of a surrogate pair (an escape from \\uD800 to \\uDFFF) is no character")
        value: Scalar = text
        if event.implicit[0] and not is_key:
            try:
                value = scalar(text)
            except ValueError as error:
                self._fail(event.start_mark, str(error))
        elif event.implicit[0] and not isinstance(key(text), str):
            self._fail(event.start_mark, f"the key {text!r} is not a string; quote it if it is meant")
        elif is_key and event.implicit[0] and text == "<<":
            self._fail(event.start_mark, "merge keys are not part of YAML 1.2; use `extends`, or repeat the keys")
        made = _Anchored(Leaf(value, self._mark(event.start_mark)), 1, 1, len(text))
        if event.anchor:
            self.anchors[event.anchor] = made
        return made

    def _grow(self, event: yaml.Event, size: int, characters: int) -> None:
        self.nodes += size
        self.characters += characters
        if self.nodes > MOST_NODES:
            self._fail(event.start_mark, f"more than {MOST_NODES} values (aliases expanded): not a recipe")
        if self.characters > LARGEST:
            self._fail(event.start_mark, f"more than {LARGEST} characters (aliases expanded): not a recipe")

    def _no_tag(self, event: yaml.NodeEvent) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._fail(event.start_mark, f"the tag {shown} is not allowed; a recipe is plain data")

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.name, mark.line + 1, mark.column + 1)

    def _fail(self, mark: Any, message: str) -> NoReturn:
        raise RecipeError(Problem(message, mark=self._mark(mark)))


@dataclass(frozen=True)
class _Anchored:
    """A node, and what it adds to a document wherever it stands: levels, nodes, characters."""

    node: Node
    height: int
    size: int
    characters: int


class _Open:
    """A collection that is not closed yet."""

    def __init__(self, mark: Mark, mapping: bool, anchor: str | None) -> None:
        self.mark, self.mapping, self.anchor = mark, mapping, anchor
        self.items: list[Node] = []
        self.entries: dict[str, Node] = {}
        self.keys: dict[str, Mark] = {}
        self.key: str | None = None
        self.height, self.size, self.characters = 0, 1, 0

    def wants_key(self) -> bool:
        return self.mapping and self.key is None

    def add(self, builder: _Builder, made: _Anchored, event: yaml.Event) -> None:
        node = made.node
        self.height = max(self.height, made.height)
        self.size, self.characters = self.size + made.size, self.characters + made.characters
        if not self.mapping:
            self.items.append(node)
        elif self.key is not None:
            self.entries[self.key] = node
            self.key = None
        else:
            if not isinstance(node, Leaf) or not isinstance(node.value, str):
                builder._fail(event.start_mark, "a key must be a plain string")
            if node.value in self.entries:
                first = self.keys[node.value].line
                builder._fail(event.start_mark, f"the key {node.value!r} is here twice (first in line {first})")
            self.key = node.value
            self.keys[node.value] = builder._mark(event.start_mark)

    def close(self) -> Node:
        if self.mapping:
            return Table(self.entries, self.mark, self.keys)
        return Items(tuple(self.items), self.mark)
