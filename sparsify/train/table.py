"""Reading data into columns, every row with its place: csv, tsv, json lines, parquet, folders, hub datasets."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsify.errors import DataError, did_you_mean, first_line
from sparsify.escaping import quoted
from sparsify.train import hub, reading
from sparsify.train.reading import check_text, text_of

MOST_KEYS = 1000


@dataclass(frozen=True)
class Table:
    """Columns of equal length. `lines[i]` is the line of row i in a text file."""

    name: str
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int] = ()
    header: bool = True
    """Whether the columns have names; else they are called 0, 1, …"""

    files: Sequence[str] = ()
    """The file that each row is, where rows are files."""

    classes: dict[str, Sequence[str]] = field(default_factory=dict)
    """The names behind columns of class numbers, where the data says them."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def place(self, row: int) -> str:
        """Return where a row stands: `file:line`."""
        if self.files:
            return self.files[row]
        return f"{self.name}:{self.lines[row]}" if self.lines else f"{self.name}: row {row + 1}"


def read(source: str, split: str, known: Sequence[str]) -> Table:
    """Read `source`: a file, a folder of a dataset, or a hub name (`NAME`, `NAME:CONFIG`, `NAME:CONFIG@SPLIT`).

    `split` is the split to take of a dataset that names several. A csv or tsv file has a header if its first row holds
    one of the `known` names. Raises DataError, with file and line.
    """
    suffix = reading.kind_of(source)
    if suffix in READERS:
        table = READERS[suffix](source, known)
    elif Path(source).exists() and not Path(source).is_dir():
        raise DataError(f"{source}: unknown kind of file{did_you_mean(suffix, READERS)}")
    else:
        table = Table(**hub.load(source, split))
    if not len(table):
        raise DataError(f"{source}: there are no rows in it")
    return table


def text_in(table: Table, column: str, row: int) -> str:
    """Return the text in a cell. Raises DataError, with its place, for what is none."""
    text = table.columns[column][row]
    if text is None:
        raise DataError(f"{table.place(row)}: there is no {column!r}, which other rows have")
    if not isinstance(text, str):
        raise DataError(f"{table.place(row)}: {column!r} is {quoted(text)}, not text")
    check_text(text, table.place(row))
    return text


def _delimited(source: str, known: Sequence[str], **dialect: Any) -> Table:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text_of(source), newline=""), strict=True, **dialect)  # U+2028 ends no line
    rows: list[list[str]] = []
    lines: list[int] = []
    for row, line in _numbered(reader, source):
        if rows and len(row) != len(rows[0]):
            raise DataError(f"{source}:{line}: {len(row)} fields, but line {lines[0]} has {len(rows[0])}")
        rows.append(row)
        lines.append(line)
    if not rows:
        raise DataError(f"{source}: the file is empty")
    header = any(cell.strip().casefold() in known for cell in rows[0])
    if header:
        _check_once(rows, lines, source)
    names = [cell.strip() or str(index) for index, cell in enumerate(rows[0])] if header else _numbers(len(rows[0]))
    rows = rows[1:] if header else rows
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    return Table(source, columns, lines[1:] if header else lines, header)


def _numbers(count: int) -> list[str]:
    return [str(index) for index in range(count)]


def _check_once(rows: Sequence[Sequence[str]], lines: Sequence[int], source: str) -> None:
    """Raise DataError for a header with a name twice (a cell without one is called by its number), or a second one."""
    names = [cell.strip() or str(index) for index, cell in enumerate(rows[0])]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise DataError(f"{source}:{lines[0]}: two columns are called {twice!r}: rename one")
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if row == rows[0]:
            raise DataError(f"{source}:{line}: the header of line {lines[0]} once more: were two files joined?")


def _numbered(reader: Any, source: str) -> Iterator[tuple[list[str], int]]:
    """Yield the rows that are not blank with the line that each begins on."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{source}:{line}: {error}") from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield row, line


def _csv(source: str, known: Sequence[str]) -> Table:
    return _delimited(source, known)


def _tsv(source: str, known: Sequence[str]) -> Table:
    return _delimited(source, known, delimiter="\t", quoting=csv.QUOTE_NONE)


def _json(source: str, known: Sequence[str]) -> Table:
    """Read an object a line, or one array of objects; a column is a key that any of them has."""
    text = text_of(source)
    if text.lstrip()[:1] == "[":
        rows = _parse(text, source, 1)
        lines: list[int] = []
    else:
        numbered = [(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows, lines = [_parse(line, source, number) for line, number in numbered], [number for _, number in numbered]
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            place = f"{source}:{lines[index]}" if lines else f"{source}: entry {index + 1}"
            raise DataError(f"{place}: expected an object with columns as keys, got {json.dumps(row)[:40]}")
    names = dict.fromkeys(name for row in rows for name in row)
    if len(names) > MOST_KEYS:
        raise DataError(f"{source}: {len(names):,} different keys, of at most {MOST_KEYS:,}: rows share their keys")
    columns = {name: [row.get(name) for row in rows] for name in names}  # what a row lacks is missed where it is used
    if not columns:
        raise DataError(f"{source}: the file is empty")
    return Table(source, columns, lines)


def _parse(text: str, source: str, line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise DataError(f"{source}:{line}: nested too deeply") from None
    except ValueError as error:
        at = f"{line + getattr(error, 'lineno', 1) - 1}:{getattr(error, 'colno', 1)}"
        raise DataError(f"{source}:{at}: not JSON: {getattr(error, 'msg', error)}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises ValueError for a key that it has twice, of which one would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return made


def _parquet(source: str, known: Sequence[str]) -> Table:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        data = datasets.Dataset(pyarrow.parquet.read_table(io.BytesIO(reading.bytes_of(source))))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{source} is not a parquet file that can be read: {first_line(error)}") from None
    return Table(source, **hub.columns_of(data))


READERS: dict[str, Callable[[str, Sequence[str]], Table]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".parquet": _parquet,
}
