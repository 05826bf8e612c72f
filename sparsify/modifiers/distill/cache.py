"""`cache`: what the teacher says is kept, so that it is asked about each sample once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sparsify.spec import Spec, integral

MOST_BYTES = 120
"""A token, in memory and on disk, for language models."""

BESIDE = 32
"""Bytes that a sample takes beside its tokens: the surprise, key, where its values begin, how many they are."""


def kept_whole(classes: int) -> bool:
    """Whether the cache keeps all logits of a position, of that many float32; of more it keeps drawn tokens."""
    return 4 * classes <= MOST_BYTES


class Cache(Spec):
    """Keeps the teacher's logits by sample: whole ones of classifiers, tokens drawn from them of language models."""

    tokens: Annotated[int, Field(ge=1, le=(MOST_BYTES - BESIDE) // 4), integral] = 12
    """For language models: tokens drawn for each position, from the teacher's distribution at the term's temperature.

    The divergence that is estimated from them is right on average, tail included.
    Source: Anshumann et al., "Sparse Logit Sampling" (2025).
    """
