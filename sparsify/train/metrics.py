"""Metrics of a classification."""

from __future__ import annotations

from typing import Any

METRICS = ("loss", "accuracy", "f1", "matthews")
"""What an evaluation tells."""


def classification(prediction: Any) -> dict[str, float]:
    """Return accuracy, F1 (macro average over the classes) and Matthews' correlation of a Trainer's prediction."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    predicted, labels = logits.argmax(-1), prediction.label_ids
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average="macro")),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }
