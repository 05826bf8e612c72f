"""What is odd in data that can be used all the same: said in the notes of a run, with the place."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from sparsify.errors import DataError
from sparsify.train.columns import Columns, is_blank
from sparsify.train.labels import number_of
from sparsify.train.table import Table

SHOWN = 3
"""Places that a note names."""
USUAL = 5
"""Rows that half of the labels have, where a label with one row is odd."""

Place = Callable[[int], str]
"""From a row to where it stands."""


def about_labels(labels: Sequence[str], place: Place, what: str = "label") -> list[str]:
    """Return notes on labels (one for each row) that occur once, look alike, or are numbers with fractions."""
    counts = Counter(labels)
    first: dict[str, int] = {}
    for row, label in enumerate(labels):
        first.setdefault(label, row)

    def shown(names: Sequence[str]) -> str:
        some = ", ".join(f"{name!r} ({place(first[name])})" for name in names[:SHOWN])
        return some + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

    notes = []
    if single := once(counts):
        verb = "occurs" if len(single) == 1 else "occur"
        notes.append(f"odd {what}{'s' * (len(single) != 1)}: {shown(single)} {verb} only once")
    if alike := _alike(counts):
        pairs = "; ".join(shown(pair) for pair in alike[:SHOWN])
        notes.append(f"{what}s that look alike are told apart: {pairs}" + ("; …" if len(alike) > SHOWN else ""))
    numbers = [number for name in counts if (number := number_of(name)) is not None and math.isfinite(number)]
    if what == "label" and any(number % 1 for number in numbers):
        notes.append("the labels are numbers with fractions, each one a class: text-regression learns numbers")
    return notes


def once(counts: Counter[str]) -> list[str]:
    """Return the labels that occur once where most occur often."""
    ordered = sorted(counts.values())
    return [name for name, count in counts.items() if count == 1] if ordered[len(ordered) // 2] >= USUAL else []


def check_first_line(table: Table, labels: Sequence[str]) -> None:
    """Raise DataError if the first row of a file without a header is the only one with its label: it is a header.

    To be asked only where the columns were guessed.
    """
    if labels[0] in once(Counter(labels)):
        raise DataError(
            f"{table.place(0)}: the label {labels[0]!r} occurs nowhere else: if this line is a header, name a column "
            "of it; if it is none, give the number of the column (--label-column)"
        )


def unseen(names: Sequence[str], labels: Sequence[str], source: str) -> list[str]:
    """Return the note on labels of the training data that the data to evaluate on does not have."""
    missing = [name for name in names if name not in set(labels)]
    if not missing:
        return []
    some = ", ".join(map(repr, missing[:SHOWN])) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
    return [f"{source}: no row has the label {some}"]


def blank_texts(table: Table, columns: Columns) -> list[str]:
    """Return the note on rows without any text."""
    cells = [table.columns[name] for name in columns.inputs]
    rows = [row for row in range(len(table)) if all(is_blank(column[row]) for column in cells)]
    if not rows:
        return []
    places = ", ".join(table.place(row) for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
    return [f"{len(rows):,} row{'s' * (len(rows) != 1)} without a text: {places}"]


def _alike(counts: Counter[str]) -> list[list[str]]:
    """Return labels that are the same number, or the same word but for capitals, width and spaces."""
    groups: dict[object, list[str]] = {}
    for name in counts:
        number = number_of(name)
        word = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(word if number is None else number, []).append(name)
    return [group for group in groups.values() if len(group) > 1]
