"""The model of transformers in a packed file, and how far its outputs are from those of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import pretrained
from sparsify.anatomy.outputs import tensors
from sparsify.anatomy.samples import samples
from sparsify.errors import StateError
from sparsify.storage.packed import PackedFile
from sparsify.storage.unpacking import temporary


def from_packed(path: str | Path, *, max_bytes: int | None = None) -> nn.Module:
    """Return the model in a packed folder of transformers, in the types in which it was saved, ready for inference.

    Its files lie in a temporary folder while transformers reads them. Raises StateError for a file without config.json,
    PlanError for a model that cannot be made.
    """
    with unpacked(path, max_bytes=max_bytes) as folder:
        return pretrained.from_folder(folder, dtype="auto")


@contextmanager
def unpacked(path: str | Path, *, max_bytes: int | None = None) -> Iterator[Path]:
    """Yield the folder of transformers in a packed file. Raises StateError where it holds no model, or is damaged."""
    with temporary(with_model(path, max_bytes=max_bytes)) as folder:
        yield folder


def with_model(path: str | Path, *, max_bytes: int | None = None) -> PackedFile:
    """Return a packed file that holds a model of transformers. Raises StateError for another."""
    packed = PackedFile(path, max_bytes=max_bytes)
    if "config.json" not in packed.beside():
        raise StateError(f"{path} holds tensors and no config.json: pack a folder of transformers to get a model")
    return packed


@dataclass(frozen=True)
class OutputError:
    """How far two models' outputs are apart, on made-up inputs."""

    largest: float
    """The largest difference."""

    relative: float
    """The norm of the difference ÷ the norm of the outputs."""

    numbers: int
    """Outputs that were compared."""


@torch.no_grad()
def output_error(before: nn.Module, after: nn.Module) -> OutputError | None:
    """Compare two models of the same class on the same inputs; None where none is found that they take."""
    for arguments, named in samples(before):
        try:
            outputs = [_floats(model(*arguments, **named)) for model in (before, after)]
        except Exception:  # of every kind: these inputs are only likely ones
            continue
        first, second = (torch.cat([part.double().reshape(-1) for part in found]) for found in outputs)
        change = second - first
        norm = float(first.norm())
        return OutputError(float(change.abs().max()), float(change.norm()) / norm if norm else 0.0, len(first))
    return None


def _floats(outputs: Any) -> list[Tensor]:
    found = list(tensors(outputs))
    if not found:
        raise ValueError("no output of real numbers")
    return found
