"""Which columns hold the label and the input: as the user says, by their usual names, or by what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    Raises DataError, with the columns that there are, where nothing or too much fits.
    """
    for name in (label, *inputs):
        if name is not None and name not in table.columns:
            hint = did_you_mean(name, table.columns, most=12)
            raise DataError(f"{table.name}: there is no column {name!r}{hint}")
    found = (label or _label(table, inputs)), (tuple(inputs) or _inputs(table, label, usual))
    if found[0] and found[1] and found[0] not in found[1]:
        return Columns(found[0], found[1])
    if not table.header and len(table.columns) == 2 and (guess := _by_content(table, label, inputs)):
        return guess
    which = "label" if not found[0] else "input"
    names = ", ".join(table.columns)
    what = "columns (there is no header)" if not table.header else "columns"
    raise DataError(
        f"{table.name}: it is not clear which column is the {which}; {what}: {names}; "
        f"name it with --label-column and {option}"
    )


def text_column(table: Table, inputs: Sequence[str], usual: Sequence[str]) -> str:
    """Return the one input column of rows without a label: the named one, a usual name, or the only one there is.

    Raises DataError, with the columns that there are.
    """
    for name in inputs:
        if name not in table.columns:
            raise DataError(f"{table.name}: there is no column {name!r}{did_you_mean(name, table.columns, most=12)}")
    lower = {name.casefold(): name for name in table.columns}
    only = list(table.columns) if len(table.columns) == 1 else []
    found = [*inputs[:1], *(lower[name] for name in usual if name in lower), *only]
    if not found:
        raise DataError(
            f"{table.name}: it is not clear which column is the input; columns: {', '.join(table.columns)}; "
            "name it with --text-column"
        )
    return found[0]


def _label(table: Table, inputs: Sequence[str]) -> str | None:
    names = {name.casefold(): name for name in table.columns if name not in inputs}
    return next((names[usual] for usual in LABELS if usual in names), None)


def _inputs(table: Table, label: str | None, usual: Sequence[str]) -> tuple[str, ...]:
    names = {name.casefold(): name for name in table.columns if name != label}
    if tuple(usual) == TEXTS:
        for first, second in PAIRS:
            if first in names and second in names:
                return names[first], names[second]
    found = [names[name] for name in usual if name in names]
    return tuple(found[:1])


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
