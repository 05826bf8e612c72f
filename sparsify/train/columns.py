"""Which columns hold the label and the input: as the user says, by their usual names, or by what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsify.errors import DataError, did_you_mean
from sparsify.train.table import Table

LABELS = ("label", "labels", "class", "category", "target", "sentiment", "intent", "fine_label", "coarse_label")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text1", "text2"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence", "content", "review", "document", "utterance", "question", "tweet", "body", "title")
IMAGES = ("image", "img", "file", "file_name", "filename", "path", "image_path", "picture")
MOST_INPUTS = {"--text-column": 2, "--image-column": 1}


@dataclass(frozen=True)
class Columns:
    """Names of columns; two inputs are a pair of texts."""

    label: str
    inputs: tuple[str, ...]


def known_names(label: str | None, inputs: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Return the names that make a first row a header, in lower case."""
    pairs = [name for pair in PAIRS for name in pair] if tuple(usual) == TEXTS else []
    given = [name for name in (label, *inputs) if name and not name.isdigit()]
    return [name.casefold() for name in (*given, *LABELS, *usual, *pairs)]


def choose(table: Table, label: str | None, inputs: Sequence[str], usual: Sequence[str], option: str) -> Columns:
    """Return the columns to use. `usual` are the usual names of inputs, `option` the flag that names one.

    Raises DataError, with the columns that there are, where nothing or too much fits; for a column that is named twice,
    does not exist, or is empty in every row.
    """
    check_named(table, label, inputs, option, MOST_INPUTS[option])
    chosen = _chosen(table, label, inputs, usual, option)
    for name in (chosen.label, *chosen.inputs):
        _check_filled(table, name)
    return chosen


def check_named(table: Table, label: str | None, inputs: Sequence[str], option: str, most: int) -> None:
    """Raise DataError if columns are named twice, do not exist, or are more inputs than `most`."""
    if len(inputs) > most:
        number = "a pair has two columns" if most == 2 else "there is one column of inputs"
        raise DataError(f"{option} is given {len(inputs)} times: {number}")
    if twice := next((name for place, name in enumerate(inputs) if name in inputs[:place]), None):
        raise DataError(f"{option} {twice} is given twice: a pair has two different columns")
    if label is not None and label in inputs:
        raise DataError(
            f"--label-column and {option} both name {label!r}: a label that is its own input teaches nothing"
        )
    for name in (label, *inputs):
        if name is not None and name not in table.columns:
            raise DataError(f"{table.name}: {no_column(table, name)}")


def no_column(table: Table, name: str) -> str:
    """Return the sentence on a column that does not exist."""
    if not table.header:
        last = len(table.columns) - 1
        return f"there is no column {name!r}: there is no header, so columns are called 0 to {last}"
    named = "; the first line is a header, so columns have names" if name.lstrip("-").isdigit() and table.lines else ""
    return f"there is no column {name!r}{did_you_mean(name, table.columns, most=12)}{named}"


def _chosen(table: Table, label: str | None, inputs: Sequence[str], usual: Sequence[str], option: str) -> Columns:
    found = (label or _label(table, inputs)), (tuple(inputs) or _inputs(table, label, usual))
    if found[0] and found[1] and found[0] not in found[1]:
        return Columns(found[0], found[1])
    if not table.header and len(table.columns) == 2:
        for name in table.columns:
            _check_filled(table, name)
        if guess := _by_content(table, label, inputs):
            return guess
    which = "label" if not found[0] else "input"
    names = ", ".join(table.columns)
    what = "columns (there is no header)" if not table.header else "columns"
    alone = (
        "; fields of csv are divided by commas, of tsv by tabs" if len(table.columns) == 1 and not table.header else ""
    )
    raise DataError(
        f"{table.name}: it is not clear which column is the {which}; {what}: {names}{alone}; "
        f"name it with --label-column and {option}"
    )


def text_column(
    table: Table,
    inputs: Sequence[str],
    usual: Sequence[str],
    *,
    label: str | None = None,
    option: str = "--text-column",
) -> str:
    """Return the one input column of rows: the named one, a usual name, or the only one there is.

    Raises DataError, with the columns that there are.
    """
    check_named(table, label, inputs, option, 1)
    only = list(table.columns) if len(table.columns) == 1 else []
    found = [*inputs, *_usual(table, usual, {label}), *only]
    if not found:
        raise DataError(
            f"{table.name}: it is not clear which column is the input; columns: {', '.join(table.columns)}; "
            f"name it with {option}"
        )
    return found[0]


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: no text, or spaces."""
    return value is None or (isinstance(value, str) and not value.strip())


def _check_filled(table: Table, name: str) -> None:
    """Raise DataError for a column that is empty in every row."""
    if all(is_blank(value) for value in table.columns[name]):
        what = f"column {name!r}" if table.header else f"column number {name}"
        raise DataError(f"{table.name}: {what} is empty in every row")


def _usual(table: Table, usual: Sequence[str], but: set[str | None]) -> list[str]:
    """Return the columns with usual names, the most usual first. Raises DataError for two that differ in capitals."""
    found: dict[str, str] = {}
    for name in table.columns:
        if name in but or (key := name.casefold()) not in usual:
            continue
        if key in found:
            raise DataError(
                f"{table.name}: the columns {found[key]!r} and {name!r} only differ in capitals: name the one that is "
                "meant"
            )
        found[key] = name
    return [found[key] for key in usual if key in found]


def _label(table: Table, inputs: Sequence[str]) -> str | None:
    return next(iter(_usual(table, LABELS, set(inputs))), None)


def _inputs(table: Table, label: str | None, usual: Sequence[str]) -> tuple[str, ...]:
    if tuple(usual) == TEXTS:
        for pair in PAIRS:
            if len(found := _usual(table, pair, {label})) == 2:
                return tuple(found)
    return tuple(_usual(table, usual, {label})[:1])


def _by_content(table: Table, label: str | None, inputs: Sequence[str]) -> Columns | None:
    """Of two columns without names, the label is the one with clearly fewer different values."""
    first, second = table.columns
    counts = {name: len(set(table.columns[name])) for name in (first, second)}
    if label or inputs:
        chosen = label or next(name for name in (first, second) if name not in inputs)
    elif counts[first] * 2 <= counts[second] or counts[second] * 2 <= counts[first]:
        chosen = min(counts, key=lambda name: counts[name])
    else:
        return None
    return Columns(chosen, (second if chosen == first else first,))
