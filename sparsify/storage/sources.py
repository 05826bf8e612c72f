"""What is packed: the weights of a folder or a file, a tensor at a time, and the small files beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsify.errors import StateError, first_line
from sparsify.files import check_regular, contents, read_bytes
from sparsify.storage.container import is_packed
from sparsify.storage.header import Weights, is_plain
from sparsify.weight_files import ONE, in_folder

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib")
"""Suffixes of files that hold code; a packed file never does."""

LARGEST_BESIDE = 1 << 27
OTHERS = (".safetensors", ".onnx", ".data", ".h5", ".msgpack", ".gguf", ".ot", ".tflite", ".npz", ".npy")
"""Suffixes of weights in other forms."""


@dataclass(frozen=True)
class Source:
    """Tensors, a file at a time, and what lies beside them."""

    files: tuple[Path, ...] = ()
    beside: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()
    """Names of files and folders that are not packed."""

    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that are in no file."""

    def weights(self) -> list[Weights]:
        """Return the files of weights, with their metadata. Raises StateError."""
        if not self.files:
            return [Weights(name=ONE, metadata={"format": "pt"})]
        return [Weights(name=file.name, metadata=_opened(file).metadata()) for file in self.files]

    def tensors(self) -> Iterator[tuple[int, str, Tensor]]:
        """Yield (place of the file, name, tensor), in the order in which they lie there. Raises StateError."""
        for name, tensor in self.memory.items():
            yield 0, name, tensor.detach()
        for number, file in enumerate(self.files):
            opened = _opened(file)
            names = opened.offset_keys() if hasattr(opened, "offset_keys") else opened.keys()
            for name in names:
                try:
                    yield number, name, opened.get_tensor(name)
                except Exception as error:  # of every kind, for types that torch does not know
                    raise StateError(f"{file}: {name} cannot be read: {first_line(error)}") from None


def _opened(file: Path) -> Any:
    import safetensors

    try:
        check_regular(file)
        return safetensors.safe_open(file, framework="pt")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StateError(f"{file} cannot be read: {first_line(error)}") from None


def source_of(what: str | Path | Mapping[str, Tensor]) -> Source:
    """Return a folder of transformers, a file of safetensors, or tensors by name, to be packed. Raises StateError."""
    if isinstance(what, Mapping):
        if strange := [
            name for name, value in what.items() if not isinstance(name, str) or not isinstance(value, Tensor)
        ]:
            raise StateError(f"{strange[0]!r} is no name of a tensor: only tensors by name can be packed")
        return Source(memory=what)
    path = Path(what)
    if os.path.lexists(path) and not os.path.isdir(path):
        _refuse_pickles(path)
        if is_packed(path):
            raise StateError(f"{path} is packed already")
        return Source(files=(path,))
    files = in_folder(path)
    for file in files:
        _refuse_pickles(file)
    beside: list[Path] = []
    left_out: list[Path] = []
    for other in contents(path):
        if other in files:
            continue
        (beside if _is_beside(other) and not is_packed(other) else left_out).append(other)
    names = tuple(f"{other.name}/" if other.is_dir() else other.name for other in left_out)
    return Source(files, tuple(beside), names)


def _refuse_pickles(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise StateError(f"{path} is a pickle, which can hold code: save the model as safetensors, then pack that")


def _is_beside(path: Path) -> bool:
    """Whether a file is a small one that belongs to the model."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in PICKLES or suffix in OTHERS or not is_plain(path.name):
        return False
    return path.stat().st_size <= LARGEST_BESIDE


def text_of(path: Path) -> bytes:
    """Return what is in a small file. Raises StateError."""
    try:
        return read_bytes(path, LARGEST_BESIDE)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
