"""The dense model that a sparse one is compared with: the one that is named, or the one its training began with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sparsify.errors import SparsifyError, StateError
from sparsify.outcome import REPORT
from sparsify.report.written import Training, Written, read_written

MOST_ZEROS = 0.01
"""The fraction of a whole model that may be zero, and it is still called dense."""

MISSING = "no dense model to compare with; sparsify report DIR --dense DENSE_DIR draws one"


@dataclass(frozen=True)
class Dense:
    """A dense model that was trained and evaluated on the same rows."""

    path: str
    metrics: dict[str, float]


def dense(written: Written, named: Path | None) -> Dense | None:
    """Return the dense model of a training: the folder `named`, else its model or its teacher if that is one.

    Raises StateError where a folder is named and is none.
    """
    if named is not None:
        other = read_written(named / REPORT)
        if written.training is None:
            raise StateError(f"--dense {named}: the folder to report has no {REPORT} of a training to compare with")
        if why := _unfit(written.training, other):
            raise StateError(f"--dense {named}: {why}")
        return Dense(str(named), other.metrics)
    training = written.training
    for path in (training.settings.model, training.settings.teacher) if training else ():
        if training is None or path is None or not os.path.isfile(Path(path) / REPORT):
            continue
        try:
            other = read_written(Path(path) / REPORT)
        except SparsifyError:  # a damaged report beside the model is no concern of this one
            continue
        if not _unfit(training, other):
            return Dense(path, other.metrics)
    return None


def _unfit(training: Training, other: Written) -> str:
    """Return why a training's results cannot be compared with another's as its dense model; empty if they can."""
    if other.training is None or not other.metrics:
        return f"there is no {REPORT} of a training in it"
    if other.density.model is None or other.density.model.sparsity > MOST_ZEROS:
        return "it is not dense"
    mine, theirs = training.data.eval_sha256, other.training.data.eval_sha256
    if mine is None or mine != theirs:
        return "it was not evaluated on the same rows"
    return ""
