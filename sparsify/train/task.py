"""What a task makes of model and data: the same for text and images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsify.errors import DataError
from sparsify.train.columns import Columns, choose, known_names
from sparsify.train.labels import Labels, labels_of
from sparsify.train.model import config_for, load
from sparsify.train.order import Ordered
from sparsify.train.settings import Settings
from sparsify.train.table import Table


@dataclass(frozen=True)
class Side:
    """A data set, chosen and checked: its table, its columns, a class for every row."""

    table: Table
    columns: Columns
    classes: list[int]

    def inputs(self) -> list[tuple[Any, ...]]:
        """Return the inputs of every row."""
        return list(zip(*(self.table.columns[name] for name in self.columns.inputs), strict=True))


@dataclass(frozen=True)
class Encoded:
    """What the model is fed with: rows, their lengths if they differ, what makes batches, what is saved with it."""

    train: Any
    evaluation: Any
    lengths: list[int] | None
    collate: Any
    processor: Any


@dataclass(frozen=True)
class Task:
    """A kind of training: the usual columns, and the way from rows to tensors."""

    name: str
    usual: tuple[str, ...]
    option: str
    """The flag that names an input column."""

    read: Callable[[str, str, list[str]], Table]
    encode: Callable[[Settings, Any, nn.Module, Side, Side], Encoded]


@dataclass(frozen=True)
class Prepared:
    """Everything that a Trainer wants."""

    model: nn.Module
    train: Ordered
    evaluation: Any
    collate: Any
    processor: Any
    labels: Labels
    notes: list[str]
    data: dict[str, Any]
    """Rows and classes, for the record."""

    def steps(self, settings: Settings) -> int:
        """Return the optimizer steps of an epoch."""
        return max(-(-len(self.train) // settings.rows_per_step), 1)


def prepare(task: Task, settings: Settings) -> Prepared:
    """Read the data and the model, and put them together. Raises DataError and PlanError."""
    config = config_for(settings.model, task.name)
    known = known_names(settings.label_column, settings.input_columns, task.usual)
    tables = [task.read(source, split, known) for source, split in ((settings.train, "train"), (settings.eval, "eval"))]
    first = choose(tables[0], settings.label_column, settings.input_columns, task.usual, task.option)
    chosen = [first, _like(first, task, settings, tables[1])]
    if len(chosen[0].inputs) != len(chosen[1].inputs):
        raise DataError(
            f"{settings.eval}: its inputs are {chosen[1].inputs}, those of the training data {chosen[0].inputs}"
        )
    labels = labels_of(tables[0], chosen[0].label, config.id2label)
    train, evaluation = (
        Side(table, columns, labels.encode(table, columns.label)) for table, columns in zip(tables, chosen, strict=True)
    )
    model, notes = load(settings.model, task.name, config, labels)
    encoded = task.encode(settings, config, model, train, evaluation)
    return Prepared(
        model=model,
        train=Ordered(encoded.train, settings.rows_per_step, settings.seed, encoded.lengths),
        evaluation=encoded.evaluation,
        collate=encoded.collate,
        processor=encoded.processor,
        labels=labels,
        notes=[*_described(train, evaluation, labels), *notes],
        data={
            "train_rows": len(train.classes),
            "eval_rows": len(evaluation.classes),
            "labels": list(labels.names),
            "train_sha256": _fingerprint(train),
            "eval_sha256": _fingerprint(evaluation),
        },
    )


def _like(first: Columns, task: Task, settings: Settings, table: Table) -> Columns:
    """Return the columns of the training data if the other table has them too, else what it has instead."""
    if {first.label, *first.inputs} <= set(table.columns):
        return first
    return choose(table, settings.label_column, settings.input_columns, task.usual, task.option)


def _fingerprint(side: Side) -> str:
    """Return a hash of the rows that are used, in their order."""
    digest = hashlib.sha256()
    for row in zip(side.classes, side.inputs(), strict=True):
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _described(train: Side, evaluation: Side, labels: Labels) -> list[str]:
    shown = ", ".join(labels.names[:6]) + (", …" if len(labels.names) > 6 else "")
    columns = "column" if train.table.header else "column number"
    return [
        f"{len(train.classes):,} rows to train on, {len(evaluation.classes):,} to evaluate on; "
        f"{len(labels.names)} labels: {shown}",
        f"label from {columns} {train.columns.label}, input from {columns} {' and '.join(train.columns.inputs)}"
        + ("" if train.table.header else " (the file has no header)"),
    ]
