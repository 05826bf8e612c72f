"""Strict YAML: text → nodes. The YAML 1.2 core schema, no tags, no duplicate keys, bounded everything.

PyYAML's parser gives the events; what they mean is decided here, since YAML 1.1 would read `2:4` as 124,
`on` as true, `012` as ten and `1e-5` as a string.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sparsify.errors import Mark, Problem, RecipeError
from sparsify.recipe.nodes import Items, Leaf, Node, Scalar, Table

LARGEST = 1 << 20
DEEPEST = 64
MOST_NODES = 20_000
"""Nodes after aliases are expanded; an alias bomb ends here."""

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_file(path: Path, shown: str | None = None) -> Node:
    """Read a `.yaml` file, or the front matter of a `.md` file. Raises RecipeError."""
    name = shown or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        reason = "is a folder, not a recipe" if path.is_dir() else (error.strerror or str(error)).lower()
        raise RecipeError(Problem(f"cannot be read: {reason}", mark=Mark(name, 1, 1))) from None
    return read_bytes(raw, name, front_matter=path.suffix.lower() == ".md")


def read_bytes(raw: bytes, name: str, *, front_matter: bool = False) -> Node:
    """Read a document from bytes; `name` stands for the file in messages. Raises RecipeError."""
    start = Mark(name, 1, 1)
    if len(raw) > LARGEST:
        raise RecipeError(Problem(f"larger than {LARGEST} bytes: not a recipe", mark=start))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError(Problem("encoded as UTF-16; save it as UTF-8", mark=start))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        mark = Mark(name, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise RecipeError(Problem("not UTF-8 text; save it as UTF-8", mark=mark)) from None
    return read_text(text, name, front_matter=front_matter)


def read_text(text: str, name: str = "<recipe>", *, front_matter: bool = False) -> Node:
    """Read a document from text. Raises RecipeError at the first thing that is not strict YAML."""
    if len(text) > LARGEST:
        raise RecipeError(Problem(f"larger than {LARGEST} bytes: not a recipe", mark=Mark(name, 1, 1)))
    if front_matter:
        text = _front_matter(text, name)
    return _Builder(name).build(text)


def read_scalar(text: str) -> Scalar:
    """Read one value as it would be read in a recipe (`--set key=value`). Raises ValueError."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return _scalar(text)


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
        self.anchors: dict[str, tuple[Node, int, int] | None] = {}
        self.nodes = 0

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
            node, height, size = None, 1, 1
            if isinstance(event, yaml.CollectionEndEvent):
                top = stack.pop()
                node, height, size = top.close(), top.height + 1, top.size
                if top.anchor:
                    self.anchors[top.anchor] = (node, height, size)
            elif isinstance(event, yaml.AliasEvent):
                node, height, size = self._alias(event)
                self._grow(event, size)
            elif isinstance(event, yaml.ScalarEvent):
                self._grow(event, 1)
                node = self._leaf(event, is_key=bool(stack) and stack[-1].wants_key())
            elif isinstance(event, yaml.CollectionStartEvent):
                self._grow(event, 1)
                stack.append(self._open(event, stack))
            if node is not None:
                if not stack:
                    return node
                if len(stack) + height > DEEPEST:
                    self._fail(event.start_mark, f"nested deeper than {DEEPEST} levels")
                stack[-1].add(self, node, event, height, size)
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

    def _alias(self, event: yaml.AliasEvent) -> tuple[Node, int, int]:
        if event.anchor not in self.anchors:
            self._fail(event.start_mark, f"the alias *{event.anchor} has no anchor before it")
        found = self.anchors[event.anchor]
        if found is None:
            self._fail(event.start_mark, f"the alias *{event.anchor} contains itself")
        return found

    def _leaf(self, event: yaml.ScalarEvent, *, is_key: bool) -> Leaf:
        self._no_tag(event)
        value: Scalar = event.value
        if event.implicit[0] and not is_key:
            try:
                value = _scalar(event.value)
            except ValueError as error:
                self._fail(event.start_mark, str(error))
        elif event.implicit[0] and not isinstance(_key(event.value), str):
            self._fail(event.start_mark, f"the key {event.value!r} is not a string; quote it if it is meant")
        elif is_key and event.implicit[0] and event.value == "<<":
            self._fail(event.start_mark, "merge keys are not part of YAML 1.2; use `extends`, or repeat the keys")
        leaf = Leaf(value, self._mark(event.start_mark))
        if event.anchor:
            self.anchors[event.anchor] = (leaf, 1, 1)
        return leaf

    def _grow(self, event: yaml.Event, size: int) -> None:
        self.nodes += size
        if self.nodes > MOST_NODES:
            self._fail(event.start_mark, f"more than {MOST_NODES} values (aliases expanded): not a recipe")

    def _no_tag(self, event: yaml.NodeEvent) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._fail(event.start_mark, f"the tag {shown} is not allowed; a recipe is plain data")

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.name, mark.line + 1, mark.column + 1)

    def _fail(self, mark: Any, message: str) -> NoReturn:
        raise RecipeError(Problem(message, mark=self._mark(mark)))


class _Open:
    """A collection that is not closed yet."""

    def __init__(self, mark: Mark, mapping: bool, anchor: str | None) -> None:
        self.mark, self.mapping, self.anchor = mark, mapping, anchor
        self.items: list[Node] = []
        self.entries: dict[str, Node] = {}
        self.keys: dict[str, Mark] = {}
        self.key: str | None = None
        self.height, self.size = 0, 1

    def wants_key(self) -> bool:
        return self.mapping and self.key is None

    def add(self, builder: _Builder, node: Node, event: yaml.Event, height: int, size: int) -> None:
        self.height, self.size = max(self.height, height), self.size + size
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


def _key(text: str) -> Scalar:
    """Read a plain key; what is not a finite number stays a string."""
    try:
        return _scalar(text)
    except ValueError:
        return None


def _scalar(text: str) -> Scalar:
    """Resolve a plain scalar by the YAML 1.2 core schema; refuse what is no finite, sensible number."""
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if len(text) > 40 and (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
        raise ValueError("a number of more than 40 characters")
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:40], 16)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large a number")
        return number
    return text
