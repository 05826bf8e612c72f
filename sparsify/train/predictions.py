"""Predictions of classes and numbers, row by row, and the last ones that a Trainer made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sparsify.report.predictions import Predictions
from sparsify.train.labels import Labels
from sparsify.train.metrics import logits_of

DIGITS = 7
"""Of numbers: what float32 has."""


def of_rows(prediction: Any, *, labels: Labels | None, order: Sequence[int] | None, sha256: str) -> Predictions | None:
    """Return the class, or the number, that each row got, in the order of the data; None for what is not finite.

    `order` is the order in which its rows were evaluated; `sha256` their hash.
    """
    logits, truths = logits_of(prediction), prediction.label_ids.reshape(-1)
    if labels is None:
        numbers = [float(f"{value:.{DIGITS}g}") for value in logits.reshape(-1).tolist()]
        if not all(map(math.isfinite, numbers)):
            return None
        return Predictions(kind="numbers", sha256=sha256, predicted=_in_order(numbers, order))
    classes = logits.argmax(-1)
    return Predictions(
        kind="labels",
        sha256=sha256,
        names=list(labels.names),
        predicted=_in_order(classes.tolist(), order),
        right=_in_order([int(each) for each in (classes == truths).tolist()], order),
    )


def _in_order(values: list[Any], order: Sequence[int] | None) -> list[Any]:
    """Return values with that of row i at place i, where they come in another order of the rows."""
    if order is None:
        return values
    found = [None] * len(values)
    for row, value in zip(order, values, strict=True):
        found[row] = value
    return found


class Remembering:
    """Measures what a Trainer predicts, and keeps the last of it."""

    def __init__(self, measure: Callable[[Any], dict[str, float]]) -> None:
        self.measure = measure
        self.last: Any = None

    def __call__(self, prediction: Any) -> dict[str, float]:
        """Return the metrics."""
        self.last = prediction
        return self.measure(prediction)
