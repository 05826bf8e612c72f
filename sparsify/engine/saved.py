"""Choices saved with a model: a small file in its folder, which a packed file takes along; and such models loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sparsify import pretrained
from sparsify.checkpoint import write_text
from sparsify.engine.chosen import Chosen
from sparsify.engine.whole import accelerate
from sparsify.errors import StateError, first_line
from sparsify.files import read_json

if TYPE_CHECKING:
    from sparsify.storage import PackedFile

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
    tried (see `accelerate` for `sample` and `keep_dense`, PackedFile for `max_bytes`). With choices, and without a
    `sample` and `keep_dense`, the weights in a packed file that the engine multiplies go straight into its layout and
    are never dense. No pickle is read. Raises StateError, PlanError for what cannot be loaded, KernelError where the
    engine cannot be used.
    """
    path = Path(path)
    if os.path.isdir(path):
        model = pretrained.load(path)
        there = (path / FILE).exists()
        saved = read_json(path / FILE) if there and choices is None else None
    else:
        from sparsify.engine.direct import loaded
        from sparsify.storage.models import from_packed, with_model
        from sparsify.storage.unpacking import temporary, write_beside

        packed = with_model(path, max_bytes=max_bytes)
        saved = choices_in(packed) if choices is None else None
        given = choices if choices is not None else saved
        if given is not None and sample is None and not keep_dense:
            with temporary(packed, write_beside) as folder:
                direct = loaded(packed, folder, given)
            if direct is not None:
                return direct
        model = from_packed(path, max_bytes=max_bytes).float().eval()
    accelerate(model, sample=sample, choices=choices if choices is not None else saved, keep_dense=keep_dense)
    return model


def choices_in(packed: PackedFile) -> Any:
    """Return the choices in a packed file as plain data; None where there are none. Raises StateError."""
    if FILE not in packed.beside():
        return None
    try:
        return json.loads(packed.text(FILE))
    except ValueError as error:
        raise StateError(f"{packed.path}: {FILE} is no JSON: {first_line(error)}") from None
