"""Names by which modules say what they are, whoever wrote them: embeddings, heads, adapters."""

from __future__ import annotations

import re

EMBEDDINGS = re.compile(r"\w*embed\w*|\w*_emb|stem\w*|\w*_stem|patchify|tokens_to_\w+", re.IGNORECASE)
HEADS = re.compile(
    r"heads?|\w+_heads?|\w*classifiers?|pooler|cls|score|\w*predict\w*|\w*logits\w*|qa_outputs|sequence_summary|"
    r"embed_out|unembed\w*|to_logits|bbox_\w+|proj_out|dfl",
    re.IGNORECASE,
)
ADAPTERS = re.compile(
    r"(lora|hada|lokr|ia3|oft|boft|vera|vblora|fourierft|hra|randlora|delora|c3a|trainable_tokens)_\w+",
    re.IGNORECASE,
)
PERHAPS = re.compile(r"adapters?", re.IGNORECASE)
"""What adapters are called within a layer; elsewhere a part of the model may bear this name (wav2vec 2.0's adapter)."""


def called(name: str, words: re.Pattern[str]) -> bool:
    """Whether a part of a dotted name is one of these words."""
    return any(words.fullmatch(part) for part in name.split("."))


def is_adapter(name: str, *, in_layer: bool = False) -> bool:
    """Whether what bears this dotted name belongs to an adapter (LoRA's two matrices, say), not to the model.

    With `in_layer` the name is a path below a layer.
    """
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdecimal() or in_layer), len(parts))
    return called(name, ADAPTERS) or any(PERHAPS.fullmatch(part) for part in parts[first:])


def is_outside(part: str) -> bool:
    """Whether a part of a dotted name says that what it holds is no layer."""
    return any(words.fullmatch(part) for words in (EMBEDDINGS, HEADS, ADAPTERS))
