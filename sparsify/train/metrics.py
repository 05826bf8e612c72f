"""Metrics of what a model predicts; QA's are beside its reading of answers (`squad`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""The label of what is not counted."""
CLASSIFICATION = ("accuracy", "f1_macro", "f1_weighted", "matthews")
LOWER = ("loss", "mse", "perplexity")
"""Metrics of which less is better."""


def logits_of(prediction: Any) -> Any:
    """Return the logits of a Trainer's prediction; encoder-decoders give more beside them."""
    return prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions


def classification(prediction: Any, *, classes: int) -> dict[str, float]:
    """Return accuracy, F1 and Matthews' correlation of a Trainer's prediction.

    `f1_macro` is the mean of the classes' F1, `f1_weighted` the mean by their rows; `f1_binary`, of two classes only,
    is the F1 of the second (GLUE's, for MRPC and QQP). A micro average would be the accuracy. Classes that neither
    occur nor are guessed do not count.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted, labels = logits_of(prediction).argmax(-1), prediction.label_ids
    found = {f"f1_{kind}": f1_score(labels, predicted, average=kind, zero_division=0) for kind in averages(classes)}
    one = len({*labels.tolist(), *predicted.tolist()}) < 2  # of which the correlation is none, with a warning
    matthews = 0.0 if one else matthews_corrcoef(labels, predicted)
    scores = {"accuracy": accuracy_score(labels, predicted), **found, "matthews": matthews}
    return {name: float(score) for name, score in scores.items()}


def averages(classes: int) -> tuple[str, ...]:
    """Return the kinds of F1 that there are for so many classes, as scikit-learn calls them."""
    return ("macro", "weighted", "binary") if classes == 2 else ("macro", "weighted")


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better."""
    return name not in LOWER


def regression(prediction: Any) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation (0 where a side is constant) and the mean squared error."""
    from scipy.stats import pearsonr, spearmanr

    predicted, labels = logits_of(prediction).reshape(-1).astype(float), prediction.label_ids.reshape(-1).astype(float)
    constant = len(set(predicted.tolist())) < 2 or len(set(labels.tolist())) < 2
    return {
        "spearman": 0.0 if constant else float(spearmanr(predicted, labels).statistic),
        "pearson": 0.0 if constant else float(pearsonr(predicted, labels).statistic),
        "mse": float(((predicted - labels) ** 2).mean()),
    }


def token_counts(logits: Any, labels: Tensor, *, shifted: bool) -> Tensor:
    """Return of every row [rows, 3]: the sum of −log p of its counted labels, how many were guessed, and how many are.

    float64; `shifted` where the logits of a position are about the next token.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != IGNORED
    targets = labels.masked_fill(~counted, 0)
    log_p = logits.float().log_softmax(-1)
    nll = -log_p.gather(-1, targets[..., None])[..., 0].masked_fill(~counted, 0)
    right = (logits.argmax(-1) == targets) & counted
    return torch.stack([nll.double().sum(1), right.double().sum(1), counted.double().sum(1)], dim=1)


def language_model(prediction: Any) -> dict[str, float]:
    """Return perplexity (exp of the mean −log p over all counted tokens) and the part of them that was guessed."""
    nll, right, count = logits_of(prediction).astype(float).sum(0).tolist()
    mean = nll / max(count, 1)
    return {"perplexity": math.exp(mean) if mean < 700 else math.inf, "accuracy": right / max(count, 1)}
