"""Choices saved with a model: a small file in its folder, which a packed file takes along; and such models loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsify import pretrained
from sparsify.checkpoint import write_text
from sparsify.engine.chosen import Chosen
from sparsify.engine.whole import accelerate
from sparsify.errors import StateError, first_line
from sparsify.files import read_json

FILE = "sparsify_engine.json"


def save_choices(folder: str | Path, chosen: Chosen) -> Path:
    """Write choices into a folder of transformers, and return the file. Raises StateError where it cannot."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StateError(f"{folder}: no such folder: save the model first")
    path = folder / FILE
    write_text(path, json.dumps(chosen.to_dict(), indent=1) + "\n")
    return path


def load(
    path: str | Path,
    *,
    sample: Any = None,
    choices: Chosen | Mapping[str, Any] | None = None,
    keep_dense: bool = False,
    max_bytes: int | None = None,
) -> nn.Module:
    """Return the model in a folder of transformers, or in a packed file, accelerated; in float32, for inference.

    `choices` are by default those that were saved with the model (`save_choices`); where there are none, layers are
    tried (see `accelerate` for `sample` and `keep_dense`, PackedFile for `max_bytes`). No pickle is read. Raises
    StateError, PlanError for what cannot be loaded, KernelError where the engine cannot be used.
    """
    path = Path(path)
    if os.path.isdir(path):
        model = pretrained.load(path)
        there = (path / FILE).exists()
        saved = read_json(path / FILE) if there and choices is None else None
    else:
        from sparsify.storage import PackedFile, from_packed

        model = from_packed(path, max_bytes=max_bytes).float().eval()
        packed = PackedFile(path, max_bytes=max_bytes)
        there = FILE in packed.beside()
        saved = _read(path, packed.text(FILE)) if there and choices is None else None
    accelerate(model, sample=sample, choices=choices if choices is not None else saved, keep_dense=keep_dense)
    return model


def _read(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise StateError(f"{path}: {FILE} is no JSON: {first_line(error)}") from None
