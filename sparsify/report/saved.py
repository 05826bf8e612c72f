"""Weights as they lie on disk: a folder of transformers (one file or several) or a file, read a tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsify.checkpoint import load
from sparsify.errors import StateError, did_you_mean

ONE, MANY = "model.safetensors", "model.safetensors.index.json"
OLD = "pytorch_model.bin"


@dataclass(frozen=True)
class Saved:
    """The files that hold the weights of `path`."""

    path: Path
    files: tuple[Path, ...]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one after the other. Raises StateError for a file that is damaged."""
        import safetensors

        for file in self.files:
            if file.suffix != ".safetensors":
                yield from load(file).items()
                continue
            with ExitStack() as stack:
                try:
                    opened: Any = stack.enter_context(safetensors.safe_open(file, framework="pt"))
                    names = list(opened.keys())
                except (OSError, safetensors.SafetensorError) as error:
                    raise StateError(f"{file} cannot be read: {error}") from None
                for name in names:
                    yield name, opened.get_tensor(name)


def find(path: str | Path) -> Saved:
    """Return the weights in a folder of transformers, or in a file. Raises StateError."""
    path = Path(path)
    if path.is_file():
        if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
            raise StateError(f"{path} is no file of weights (.safetensors, .bin)")
        return Saved(path, (path,))
    if not path.is_dir():
        near = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise StateError(f"{path}: no such folder{did_you_mean(str(path), near, most=0)}")
    if (path / ONE).is_file():
        return Saved(path, (path / ONE,))
    if (path / MANY).is_file():
        try:
            parts = sorted(set(json.loads((path / MANY).read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise StateError(f"{path / MANY} cannot be read: {error}") from None
        missing = [part for part in parts if not (path / part).is_file()]
        if missing:
            raise StateError(f"{path}: {missing[0]} is missing, which {MANY} names")
        return Saved(path, tuple(path / part for part in parts))
    if (path / OLD).is_file():
        return Saved(path, (path / OLD,))
    raise StateError(f"{path}: there are no weights here ({ONE})")
