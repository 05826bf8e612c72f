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
from sparsify.files import check_regular
from sparsify.train import hub

PACKED = (".gz", ".bz2", ".xz", ".zip")


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


def check_letters(text: str, place: str) -> None:
    """Raise DataError for text that no file could hold: JSON and names of files may have halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start + 1} of {text[:40]!r} is no letter of any script") from None


def read(source: str, split: str, known: Sequence[str]) -> Table:
    """Read `source`: a file, a folder of a dataset, or a hub name (`NAME`, `NAME:CONFIG`, `NAME:CONFIG@SPLIT`).

    `split` is the split to take of a dataset that names several. A csv or tsv file has a header if its first row holds
    one of the `known` names. Raises DataError, with file and line.
    """
    suffix = _suffix(source)
    if suffix in READERS:
        table = READERS[suffix](source, known)
    elif Path(source).exists() and not Path(source).is_dir():
        raise DataError(f"{source}: unknown kind of file{did_you_mean(suffix, READERS)}")
    else:
        table = Table(**hub.load(source, split))
    if not len(table):
        raise DataError(f"{source}: there are no rows in it")
    return table


def _suffix(source: str) -> str:
    path = Path(source.lower())
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _bytes(source: str) -> bytes:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        system, path = fsspec.core.url_to_fs(source)
        if isinstance(system, LocalFileSystem):
            check_regular(path)
        with fsspec.open(source, "rb", compression="infer") as file:
            return bytes(file.read())
    except FileNotFoundError:
        folder = Path(source).parent
        near = [str(other) for other in folder.iterdir()] if folder.is_dir() else []
        raise DataError(f"{source}: no such file{did_you_mean(source, near, most=0)}") from None
    except IndexError:
        raise DataError(f"{source} cannot be read: there is no file in the archive") from None
    except Exception as error:  # what unpacks raises of every kind
        raise DataError(f"{source} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}") from None


def text_in(table: Table, column: str, row: int) -> str:
    """Return the text in a cell. Raises DataError, with its place, for what is none."""
    text = table.columns[column][row]
    if not isinstance(text, str):
        raise DataError(f"{table.place(row)}: {column!r} is {text!r}, not text")
    check_letters(text, table.place(row))
    return text


def text_of(source: str) -> str:
    """Return the text of a file, unpacked where it is packed. Raises DataError, with the line of what is not UTF-8."""
    data = _bytes(source)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "perhaps Latin-1 or Windows-1252"
        raise DataError(
            f"{source}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}; {guess}): convert it, "
            "for instance with `iconv -f … -t utf-8`"
        ) from None


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
    header = len(set(rows[0])) == len(rows[0]) and any(cell.strip().casefold() in known for cell in rows[0])
    names = [cell.strip() for cell in rows.pop(0)] if header else [str(index) for index in range(len(rows[0]))]
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    return Table(source, columns, lines[1:] if header else lines, header)


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
    """Read an object a line, or one array of objects."""
    text = text_of(source)
    if text.lstrip()[:1] == "[":
        rows = _parse(text, source, 1)
        lines: list[int] = []
    else:
        numbered = [(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        rows, lines = [_parse(line, source, number) for line, number in numbered], [number for _, number in numbered]
    columns: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        place = f"{source}:{lines[index]}" if lines else f"{source}: entry {index + 1}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object with columns as keys, got {json.dumps(row)[:40]}")
        if index == 0:
            columns = {str(name): [] for name in row}
        for name, values in columns.items():
            if name not in row:
                raise DataError(f"{place}: there is no {name!r}, which the first row has")
            values.append(row[name])
    if not columns:
        raise DataError(f"{source}: the file is empty")
    return Table(source, columns, lines)


def _parse(text: str, source: str, line: int) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{source}:{line}: nested too deeply") from None
    except ValueError as error:
        at = f"{line + getattr(error, 'lineno', 1) - 1}:{getattr(error, 'colno', 1)}"
        raise DataError(f"{source}:{at}: not JSON: {getattr(error, 'msg', error)}") from None


def _parquet(source: str, known: Sequence[str]) -> Table:
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        data = datasets.Dataset(pyarrow.parquet.read_table(io.BytesIO(_bytes(source))))
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
