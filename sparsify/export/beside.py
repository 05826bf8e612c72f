"""What an exported model needs beside its graph: the configuration, and what makes its inputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NAMES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


def put_beside(directory: Path, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Copy what a model's folder has of them; return what lies beside now, and what was left since others have it.

    A file of the same name with another content is another model's, and is never overwritten.
    """
    there, left = [], []
    for name in NAMES:
        source, target = directory / name, folder / name
        if not source.is_file():
            continue
        if target.exists() and not (target.samefile(source) or target.read_bytes() == source.read_bytes()):
            left.append(name)
            continue
        if not target.exists():
            part = folder / f".{name}.part"
            shutil.copyfile(source, part)
            os.replace(part, target)
        there.append(name)
    return tuple(there), tuple(left)
