"""From labels in the data to class numbers, in the order that the model has them, if it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsify.errors import DataError, did_you_mean
from sparsify.escaping import quoted
from sparsify.train.reading import check_text
from sparsify.train.table import Table

MOST = 10_000
"""Classes above which a column is taken for something else than labels."""
FEW = 20
"""Classes up to which a small data set may have more classes than half of its rows."""


@dataclass(frozen=True)
class Labels:
    """Names of classes; class i is the i-th."""

    names: tuple[str, ...]

    def encode(self, table: Table, column: str) -> list[int]:
        """Return the class of every row. Raises DataError, with the row's place, for an unknown label."""
        numbers = {name: number for number, name in enumerate(self.names)}
        found = []
        for row, value in enumerate(texts_of(table, column)):
            if value not in numbers:
                hint = did_you_mean(value, self.names)
                raise DataError(f"{table.place(row)}: the label {value!r} does not occur in the training data{hint}")
            found.append(numbers[value])
        return found


def labels_of(table: Table, column: str, model: Mapping[int, str]) -> Labels:
    """Return the labels of the training data, numbered as `model` (its `id2label`) does if it knows the same ones.

    Raises DataError for a column that can hardly be the label: one value in all rows, or nearly as many as rows.
    """
    values = set(table.classes[column]) if column in table.classes else set(texts_of(table, column))
    known = tuple(model[number] for number in sorted(model))
    if values == set(known):
        return Labels(known)
    if len(values) < 2:
        raise DataError(f"{table.name}: all rows have the label {next(iter(values))!r}; is {column!r} the label?")
    all_differ = len(values) == len(table) > 2
    if len(values) > MOST or all_differ or (len(values) > max(FEW, len(table) // 2) and column not in table.classes):
        raise DataError(
            f"{table.name}: {len(values)} different labels in {len(table)} rows: "
            f"is {column!r} the label? (--label-column)"
        )
    if column in table.classes:
        return Labels(tuple(table.classes[column]))
    return Labels(tuple(sorted(values, key=order)))


def texts_of(table: Table, column: str) -> list[str]:
    """Return the labels as text, class numbers by their names.

    Raises DataError, with the row's place, for a label that is empty or more than one value, and for true and false
    beside other labels: they would be classes of their own.
    """
    names: Sequence[str] = table.classes.get(column, ())
    cells = table.columns[column]
    texts = []
    first: Any = None
    for row, value in enumerate(cells):
        text = text_of(value, table.place, row)
        first = value if row == 0 else first
        if isinstance(value, bool) is not isinstance(first, bool):
            raise DataError(
                f"{table.place(row)}: the label is {value!r}, but {table.place(0)} has {first!r}: true and false are "
                "not mixed with other labels"
            )
        named = names and isinstance(value, int) and 0 <= value < len(names)
        texts.append(names[value] if named else text)
    return texts


def text_of(value: Any, place: Any, row: int, what: str = "label") -> str:
    """Return one label as text: 1, 1.0 and " 1" are the same. `place(row)` says where it stands. Raises DataError."""
    if isinstance(value, (list, tuple, dict, set, bytes)):
        raise DataError(f"{place(row)}: the {what} is {quoted(value)}, not one value")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None or value != value else str(value).strip()
    if not text:
        raise DataError(f"{place(row)}: the {what} is empty")
    check_text(text, place(row))
    return text


def order(text: str) -> tuple[int, float, str]:
    """Return what labels are sorted by: numbers by value, before words."""
    number = number_of(text)
    return (1, 0.0, text) if number is None else (0, number, text)


def number_of(text: str) -> float | None:
    """Return the number that a label is, infinite ones too; None for words, NaN, and what only Python takes for one."""
    try:
        number = float(text) if "_" not in text else None
    except ValueError:
        return None
    return None if number is None or number != number else number
