"""Batches and teachers for the tests of `cache`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.modifiers.distill.students import batch, bert


class Asked:
    """Counts the forwards of a teacher, and the rows in them."""

    def __init__(self, teacher: nn.Module) -> None:
        self.rows: list[int] = []
        teacher.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        given = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
        self.rows.append(len(given[0]))


def widened(inputs: dict[str, Tensor], by: int) -> dict[str, Tensor]:
    """Return a batch with more padding."""
    pad = {"labels": -100}
    return {
        name: nn.functional.pad(value, (0, by), value=pad.get(name, 0)) if value.dim() == 2 else value
        for name, value in inputs.items()
    }


def rows_of(inputs: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}


def tagged(seed: int = 0) -> dict[str, Tensor]:
    """Return a batch of token classification: padding and some tokens have no label."""
    inputs = batch(seed)
    labels = inputs["input_ids"] % 3
    return {**inputs, "labels": labels.masked_fill((inputs["attention_mask"] == 0) | (labels == 2), -100)}


def answered() -> dict[str, Tensor]:
    spans = {"start_positions": torch.tensor([0, 1, 2, 0]), "end_positions": torch.tensor([3, 2, 5, 1])}
    return batch(**spans)


KINDS: dict[str, tuple[Any, Any, str]] = {
    "classification": (lambda seed=0: bert(seed=seed), batch, "{temperature: 2}"),
    "cosine": (lambda seed=0: bert(seed=seed), batch, "{loss: cosine}"),
    "regression": (
        lambda seed=0: bert(seed=seed, num_labels=1),
        lambda: batch(labels=torch.tensor([0.1, -2.0, 1.5, 0.0])),
        "{loss: mse}",
    ),
    "tokens": (lambda seed=0: bert("TokenClassification", seed=seed), tagged, "{temperature: 2}"),
    "many tokens": (
        lambda seed=0: bert("TokenClassification", seed=seed, num_labels=50),
        tagged,
        "{loss: jsd, temperature: 2}",
    ),
    "answers": (lambda seed=0: bert("QuestionAnswering", seed=seed, num_labels=2), answered, "{temperature: 2}"),
}


def lines(seed: int = 0, length: int = 6) -> dict[str, Tensor]:
    inputs = batch(seed)
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}
