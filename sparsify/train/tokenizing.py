"""The tokenizer of a model, and how much of a text it may take."""

from __future__ import annotations

from typing import Any

from sparsify import pretrained
from sparsify.errors import PlanError
from sparsify.pretrained import positions
from sparsify.train.settings import Settings


def tokenizer_of(name: str, config: Any) -> Any:
    """Return the tokenizer of a model; one that cannot pad pads with its end. Raises PlanError where there is none."""
    tokenizer = pretrained.tokenizer(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def fast(tokenizer: Any, name: str, task: str) -> Any:
    """Return the tokenizer if it knows where in a text its tokens lie. Raises PlanError if not."""
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise PlanError(f"{name}: {task} needs a fast tokenizer, which knows where its tokens lie; {kind} does not")
    return tokenizer


def most_tokens(settings: Settings, config: Any) -> int:
    """Return the tokens after which a text is cut."""
    return min(settings.max_length, positions(config) or settings.max_length)
