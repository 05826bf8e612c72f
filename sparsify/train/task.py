"""What a task makes of model and data, and what the Trainer wants of it: the same for every task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from sparsify.report.predictions import Predictions
from sparsify.train.labels import Labels
from sparsify.train.order import Ordered
from sparsify.train.settings import Settings


@dataclass(frozen=True)
class Encoded:
    """What the model is fed with: rows, their lengths if they differ, what makes batches, what is saved with it."""

    train: Any
    evaluation: Any
    lengths: list[int] | None
    collate: Any
    processor: Any
    order: list[int] | None = None
    """The rows of the evaluation data in the order in which they are evaluated; None if that is their own."""


@dataclass(frozen=True)
class Prepared:
    """Everything that a Trainer wants."""

    model: nn.Module
    train: Ordered
    evaluation: Any
    collate: Any
    processor: Any
    measure: Callable[[Any], dict[str, float]]
    """From a Trainer's prediction to metrics: those of the task, and those named in `more`."""

    notes: list[str]
    data: dict[str, Any]
    """Rows and classes, for the record."""

    more: tuple[str, ...] = ()
    """Metrics that only these data have."""

    labels: Labels | None = None
    """Where the head tells classes apart."""

    thin: Callable[[Any, Any], Any] | None = None
    """From a batch's outputs and labels to what is kept of them for `measure`."""

    predicted: Callable[[Any], Predictions | None] | None = None
    """From a Trainer's prediction to what was predicted of each row, in the order of the evaluation data; None where
    that is too much to keep."""

    def steps(self, settings: Settings) -> int:
        """Return the optimizer steps of an epoch."""
        return max(-(-len(self.train) // settings.rows_per_step), 1)


class Prepare(Protocol):
    """Reads data and model (unless it has been `loaded`). Raises DataError and PlanError."""

    def __call__(self, settings: Settings, *, loaded: nn.Module | None = None) -> Prepared: ...


@dataclass(frozen=True)
class Task:
    """A kind of training."""

    name: str
    prepare: Prepare
    metrics: tuple[str, ...]
    """What an evaluation tells beside the loss; `--best` goes by the first, unless `--metric` names another."""


def fingerprint(rows: Iterable[Any]) -> str:
    """Return a hash of the rows that are used, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()
