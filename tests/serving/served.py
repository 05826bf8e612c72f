"""Small models with tokenizers, to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests import tiny


def classifier(folder: Path) -> Path:
    """Write a BERT that sorts texts in two classes."""
    return with_head(folder, "BertForSequenceClassification")


def with_head(folder: Path, kind: str, **named: Any) -> Path:
    """Write the small BERT with a head, random, beside its tokenizer."""
    import transformers

    tiny.text_model(folder)
    torch.manual_seed(1)
    model = getattr(transformers, kind).from_pretrained(folder, **named)
    model.save_pretrained(folder)
    return folder
