"""Texts or pairs with a class or a number: tokenized once; batches padded to their longest row."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sparsify.progress import task
from sparsify.train import metrics, table
from sparsify.train.columns import TEXTS
from sparsify.train.labelled import Inputs, Side, prepare
from sparsify.train.settings import Settings
from sparsify.train.task import Encoded, Task
from sparsify.train.tokenizing import most_tokens, tokenizer_of


def encode(settings: Settings, config: Any, model: nn.Module, train: Side, evaluation: Side) -> Encoded:
    """Tokenize both sides. Raises PlanError for a model without a tokenizer, DataError for a row that is no text."""
    import datasets
    from transformers import DataCollatorWithPadding

    datasets.disable_progress_bars()
    tokenizer = tokenizer_of(settings.model, config)
    most = most_tokens(settings, config)
    tokenized = [_tokenize(tokenizer, side, most, datasets) for side in (train, evaluation)]
    lengths = [len(ids) for ids in tokenized[0]["input_ids"]]
    ranks = [len(ids) for ids in tokenized[1]["input_ids"]]
    order = sorted(range(len(ranks)), key=lambda row: ranks[row])
    return Encoded(
        tokenized[0], tokenized[1].select(order), lengths, DataCollatorWithPadding(tokenizer), tokenizer, order
    )


def _tokenize(tokenizer: Any, side: Side, most: int, datasets: Any) -> Any:
    columns = [[table.text_in(side.table, name, row) for row in range(len(side.table))] for name in side.columns.inputs]
    names = [f"text{number}" for number in range(len(columns))]
    data = datasets.Dataset.from_dict({**dict(zip(names, columns, strict=True)), "labels": side.targets})

    def encoded(batch: dict[str, Any]) -> Any:
        found = tokenizer(*(batch[name] for name in names), truncation=True, max_length=most)
        advance(len(batch["labels"]))
        return found

    with task("cutting texts into tokens", len(data)) as advance:
        return data.map(
            encoded,
            batched=True,
            remove_columns=names,
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint="sparsify",
        )


INPUTS = Inputs(TEXTS, "--text-column", table.read, encode)
CLASSIFICATION = Task("text-classification", partial(prepare, INPUTS), metrics.CLASSIFICATION)
REGRESSION = Task("text-regression", partial(prepare, INPUTS), ("spearman", "pearson", "mse"))
