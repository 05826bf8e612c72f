"""Tagged words in text files: CoNLL (a word first and its tag last in a line), CoNLL-U (its UPOS)."""

from __future__ import annotations

from collections.abc import Iterator

from sparsify.errors import DataError
from sparsify.escaping import quoted
from sparsify.train import reading
from sparsify.train.table import Table

ENDINGS = (".conll", ".txt", ".bio", ".iob", ".iob2", ".conllu")
UNIVERSAL = 10
"""Fields of a line of CoNLL-U; the second is the word, the fourth its part of speech (UPOS)."""


def read(source: str) -> Table:
    """Return a table of `tokens` and `tags`, a row for each sentence; blank lines stand between sentences.

    Raises DataError for a line with fewer or more fields than the first: a word with a space in it would be cut.
    """
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    lines: list[int] = []
    universal = reading.kind_of(source) == ".conllu"
    for number, fields in _fields(source, universal):
        if not fields:
            if words[-1]:
                words.append([])
                tags.append([])
            continue
        if universal and not fields[0].isdigit():  # a word of several (`1-2`), or one that is not in the text (`1.1`)
            continue
        if not words[-1]:
            lines.append(number)
        words[-1].append(fields[1 if universal else 0])
        tags[-1].append(fields[3 if universal else -1])
    if not words[-1]:
        words, tags = words[:-1], tags[:-1]
    return Table(source, {"tokens": words, "tags": tags}, lines)


def _fields(source: str, universal: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each line; none for a blank line."""
    wanted, first = (UNIVERSAL, 0) if universal else (0, 0)
    for number, line in enumerate(reading.text_of(source).split("\n"), 1):
        tabs = universal or "\t" in line
        fields = [field.strip() for field in line.split("\t")] if tabs and line.strip() else line.split()
        if (universal and line.startswith("#")) or (fields and fields[0] == "-DOCSTART-"):
            yield number, []
            continue
        if fields and (len(fields) < 2 or not fields[0]):
            raise DataError(f"{source}:{number}: a line has a word and its tag, got {quoted(line.strip(), 40)}")
        if fields and not wanted:
            wanted, first = len(fields), number
        if fields and len(fields) != wanted:
            said = f"line {first} has {wanted}" if first else f"a line of CoNLL-U has {wanted}"
            raise DataError(f"{source}:{number}: {len(fields)} fields, but {said}: a word is one field")
        yield number, fields
