"""From labels in the data to class numbers, in the order that the model has them, if it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsify.errors import DataError, did_you_mean
from sparsify.train.table import Table, check_letters

MOST = 10_000
"""Classes above which a column is taken for something else than labels."""


@dataclass(frozen=True)
class Labels:
    """Names of classes; class i is the i-th."""

    names: tuple[str, ...]

    def encode(self, table: Table, column: str) -> list[int]:
        """Return the class of every row. Raises DataError, with the row's place, for an unknown label."""
        numbers = {name: number for number, name in enumerate(self.names)}
        found = []
        for row, value in enumerate(_texts(table, column)):
            if value not in numbers:
                hint = did_you_mean(value, self.names)
                raise DataError(f"{table.place(row)}: the label {value!r} does not occur in the training data{hint}")
            found.append(numbers[value])
        return found


def labels_of(table: Table, column: str, model: Mapping[int, str]) -> Labels:
    """Return the labels of the training data, numbered as `model` (its `id2label`) does if it knows the same ones."""
    values = set(table.classes[column]) if column in table.classes else set(_texts(table, column))
    known = tuple(model[number] for number in sorted(model))
    if values == set(known):
        return Labels(known)
    if len(values) < 2:
        raise DataError(f"{table.name}: all rows have the label {next(iter(values))!r}; is {column!r} the label?")
    if len(values) > MOST or (len(values) == len(table) > 2):
        raise DataError(
            f"{table.name}: {len(values)} different labels in {len(table)} rows: "
            f"is {column!r} the label? (--label-column)"
        )
    if column in table.classes:
        return Labels(tuple(table.classes[column]))
    return Labels(tuple(sorted(values, key=_order)))


def _texts(table: Table, column: str) -> list[str]:
    """Return the labels as text, class numbers by their names."""
    names: Sequence[str] = table.classes.get(column, ())
    texts = []
    for row, value in enumerate(table.columns[column]):
        text = _text(value)
        if not text:
            raise DataError(f"{table.place(row)}: the label is empty")
        check_letters(text, table.place(row))
        named = names and isinstance(value, int) and 0 <= value < len(names)
        texts.append(names[value] if named else text)
    return texts


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _order(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
