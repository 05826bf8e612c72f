"""Tasks whose rows are inputs and a label: from columns of a table to classes, or to numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from sparsify.errors import DataError
from sparsify.escaping import quoted
from sparsify.heads import set_regression
from sparsify.train import doubts, metrics, predictions
from sparsify.train.columns import TEXTS, Columns, choose, known_names
from sparsify.train.labels import Labels, labels_of, number_of, texts_of
from sparsify.train.model import config_for, load
from sparsify.train.order import Ordered
from sparsify.train.settings import Settings
from sparsify.train.table import Table
from sparsify.train.task import Encoded, Prepared, fingerprint


@dataclass(frozen=True)
class Side:
    """A data set, chosen and checked: its table, its columns, a class (or a number) for every row."""

    table: Table
    columns: Columns
    targets: list[Any]

    def inputs(self) -> list[tuple[Any, ...]]:
        """Return the inputs of every row."""
        return list(zip(*(self.table.columns[name] for name in self.columns.inputs), strict=True))


@dataclass(frozen=True)
class Inputs:
    """A kind of input: the usual columns, and the way from rows to tensors."""

    usual: tuple[str, ...]
    option: str
    """The flag that names an input column."""

    read: Callable[[str, str, list[str]], Table]
    encode: Callable[[Settings, Any, nn.Module, Side, Side], Encoded]


def prepare(inputs: Inputs, settings: Settings, *, loaded: nn.Module | None = None) -> Prepared:
    """Read the data and the model, and put them together. Raises DataError and PlanError."""
    config = config_for(settings.model, settings.task)
    tables, columns = _tables(inputs, settings)
    numbers = settings.task == "text-regression"
    labels = None if numbers else labels_of(tables[0], columns[0].label, config.id2label)
    if labels is not None and not tables[0].header and settings.label_column is None and not settings.input_columns:
        doubts.check_first_line(tables[0], texts_of(tables[0], columns[0].label))
    train, evaluation = (
        Side(table, chosen, labels.encode(table, chosen.label) if labels else _numbers(table, chosen.label))
        for table, chosen in zip(tables, columns, strict=True)
    )
    if numbers:
        set_regression(config)
    model, notes = load(settings.model, settings.task, config, labels, loaded)
    encoded = inputs.encode(settings, config, model, train, evaluation)
    hashes = {f"{name}_sha256": _hash(side, labels) for name, side in (("train", train), ("eval", evaluation))}
    return Prepared(
        model=model,
        train=Ordered(encoded.train, settings.rows_per_step, settings.seed, encoded.lengths),
        evaluation=encoded.evaluation,
        collate=encoded.collate,
        processor=encoded.processor,
        measure=partial(metrics.classification, classes=len(labels.names)) if labels else metrics.regression,
        more=("f1_binary",) if labels and len(labels.names) == 2 else (),
        notes=[*_described(train, evaluation, labels), *_doubts(inputs, train, evaluation, labels), *notes],
        data={
            "train_rows": len(train.targets),
            "eval_rows": len(evaluation.targets),
            **({"labels": list(labels.names)} if labels else {}),
            **hashes,
        },
        labels=labels,
        predicted=partial(predictions.of_rows, labels=labels, order=encoded.order, sha256=hashes["eval_sha256"]),
    )


def _tables(inputs: Inputs, settings: Settings) -> tuple[list[Table], list[Columns]]:
    """Return both tables, and the columns to use of each."""
    known = known_names(settings.label_column, settings.input_columns, inputs.usual)
    sources = ((settings.train, "train"), (settings.eval, "eval"))
    tables = [inputs.read(source, split, known) for source, split in sources]

    def chosen(table: Table) -> Columns:
        return choose(table, settings.label_column, settings.input_columns, inputs.usual, inputs.option)

    first = chosen(tables[0])
    alike = {first.label, *first.inputs} <= set(tables[1].columns)
    columns = [first, first if alike else chosen(tables[1])]
    if len(columns[0].inputs) != len(columns[1].inputs):
        raise DataError(
            f"{settings.eval}: its inputs are {columns[1].inputs}, those of the training data {columns[0].inputs}"
        )
    return tables, columns


def _numbers(table: Table, column: str) -> list[float]:
    """Return the label of every row as a number. Raises DataError, with the row's place, for one that is none."""
    found = []
    for row, value in enumerate(table.columns[column]):
        number = None if isinstance(value, bool) else number_of(str(value))
        if number is None or not math.isfinite(number):
            place, said = table.place(row), quoted(value)
            raise DataError(f"{place}: the label {said} is not a finite number, which a regression needs")
        found.append(number)
    if len(set(found)) < 2:
        raise DataError(f"{table.name}: all rows have the label {found[0]:g}; is {column!r} the label?")
    return found


def _doubts(inputs: Inputs, train: Side, evaluation: Side, labels: Labels | None) -> list[str]:
    """Return what is odd in the data, for the notes."""
    notes = []
    if labels is not None:
        texts = [labels.names[number] for number in train.targets]
        notes += doubts.about_labels(texts, train.table.place)
        seen = [labels.names[number] for number in evaluation.targets]
        notes += doubts.unseen(labels.names, seen, evaluation.table.name)
    if inputs.usual == TEXTS:
        notes += [note for side in (train, evaluation) for note in doubts.blank_texts(side.table, side.columns)]
    return notes


def _hash(side: Side, labels: Labels | None) -> str:
    """Return the hash of rows and their labels, by name: it does not depend on how a model numbers them."""
    targets = [labels.names[target] for target in side.targets] if labels else side.targets
    return fingerprint(zip(targets, side.inputs(), strict=True))


def _described(train: Side, evaluation: Side, labels: Labels | None) -> list[str]:
    if labels is not None:
        shown = ", ".join(labels.names[:6]) + (", …" if len(labels.names) > 6 else "")
        what = f"{len(labels.names)} labels: {shown}"
    else:
        what = f"labels from {min(train.targets):g} to {max(train.targets):g}"
    columns = "column" if train.table.header else "column number"
    return [
        f"{len(train.targets):,} rows to train on, {len(evaluation.targets):,} to evaluate on; {what}",
        f"label from {columns} {train.columns.label}, input from {columns} {' and '.join(train.columns.inputs)}"
        + ("" if train.table.header else " (the file has no header)"),
    ]
