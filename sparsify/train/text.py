"""Text classification: one text or a pair, tokenized once; batches padded to their longest row."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsify.errors import DataError, PlanError
from sparsify.pretrained import first_line
from sparsify.train import table
from sparsify.train.columns import TEXTS
from sparsify.train.settings import Settings
from sparsify.train.task import Encoded, Side, Task


def encode(settings: Settings, config: Any, model: nn.Module, train: Side, evaluation: Side) -> Encoded:
    """Tokenize both sides. Raises PlanError for a model without a tokenizer, DataError for a row that is no text."""
    import datasets
    from transformers import DataCollatorWithPadding

    datasets.disable_progress_bars()
    tokenizer = _tokenizer(settings.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    most = min(settings.max_length, getattr(config, "max_position_embeddings", None) or settings.max_length)
    tokenized = [_tokenize(tokenizer, side, most, datasets) for side in (train, evaluation)]
    lengths = [len(ids) for ids in tokenized[0]["input_ids"]]
    ranks = [len(ids) for ids in tokenized[1]["input_ids"]]
    sorted_by_length = tokenized[1].select(sorted(range(len(ranks)), key=lambda row: ranks[row]))
    return Encoded(tokenized[0], sorted_by_length, lengths, DataCollatorWithPadding(tokenizer), tokenizer)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the library raises of every kind
        raise PlanError(f"{name}: no tokenizer to be had: {first_line(error)}") from None


def _tokenize(tokenizer: Any, side: Side, most: int, datasets: Any) -> Any:
    columns = [side.table.columns[name] for name in side.columns.inputs]
    for name, column in zip(side.columns.inputs, columns, strict=True):
        for row, text in enumerate(column):
            if not isinstance(text, str):
                raise DataError(f"{side.table.place(row)}: {name!r} is {text!r}, not text")
            table.check_letters(text, side.table.place(row))
    names = [f"text{number}" for number in range(len(columns))]
    data = datasets.Dataset.from_dict({**dict(zip(names, columns, strict=True)), "labels": side.classes})
    return data.map(
        lambda batch: tokenizer(*(batch[name] for name in names), truncation=True, max_length=most),
        batched=True,
        remove_columns=names,
        keep_in_memory=True,
        load_from_cache_file=False,
        new_fingerprint="sparsify",
    )


TASK = Task("text-classification", TEXTS, "--text-column", table.read, encode)
