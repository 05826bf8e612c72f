"""Weights as they lie on disk: a folder of transformers (one file or several), a file or a packed file, read a tensor
at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify.checkpoint import load
from sparsify.errors import StateError, first_line
from sparsify.files import check_regular
from sparsify.progress import counted
from sparsify.weight_files import in_folder


@dataclass(frozen=True)
class Saved:
    """The files that hold the weights of `path`."""

    path: Path
    files: tuple[Path, ...]
    packed: bool = False
    """Whether `path` is a packed file, with the small files of the folder in it."""

    @contextmanager
    def beside(self) -> Iterator[Path]:
        """Give the folder with what lies beside the weights: recipe, report, config.json; for a while, if packed."""
        if not self.packed:
            yield self.path
            return
        from sparsify.storage.packed import PackedFile
        from sparsify.storage.unpacking import temporary, write_beside

        with temporary(PackedFile(self.path), write_beside) as folder:
            yield folder

    def notes(self) -> list[str]:
        """Return what is to be said of how the weights are stored."""
        if not self.packed:
            return []
        from sparsify.storage.packed import PackedFile

        kinds = Counter(stored.value_type for stored in PackedFile(self.path).header.stored if not stored.exact)
        return [f"{number} tensors are stored as {kind}: their values are not exact" for kind, number in kinds.items()]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one after the other. Raises StateError for a file that is damaged."""
        sizes = None if self.packed else sum(file.stat().st_size for file in self.files if file.is_file())
        yield from counted(f"reading {self.path.name}", self._tensors(), sizes, lambda each: each[1].nbytes)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        import safetensors

        if self.packed:
            yield from _packed(self.path)
            return
        for file in self.files:
            if file.suffix != ".safetensors":
                yield from _pickled(file)
                continue
            with ExitStack() as stack:
                try:
                    check_regular(file)
                    opened: Any = stack.enter_context(safetensors.safe_open(file, framework="pt"))
                    names = list(opened.keys())
                except (OSError, ValueError, safetensors.SafetensorError) as error:
                    raise StateError(f"{file} cannot be read: {first_line(error)}") from None
                for name in names:
                    yield name, _plain(file, name, partial(opened.get_tensor, name))


def _packed(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a packed file."""
    from sparsify.storage.packed import PackedFile

    packed = PackedFile(file)
    for name in packed.names():
        yield name, _plain(file, name, partial(packed.tensor, name))


def _pickled(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors at the top level of a checkpoint of torch. Raises StateError where there are none."""
    parts = load(file)
    tensors = {str(name): part for name, part in parts.items() if isinstance(part, Tensor)}
    if not tensors:
        shown = ", ".join(str(name) for name in list(parts)[:6])
        raise StateError(f"{file}: there are no tensors at its top level{f' (it holds: {shown})' if shown else ''}")
    for name, tensor in tensors.items():
        yield name, _plain(file, name, partial(_itself, tensor))


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _plain(file: Path, name: str, read: Callable[[], Tensor]) -> Tensor:
    """Return a tensor that can be counted: dense, on the CPU; floats of one byte, which torch cannot compare, wider."""
    try:
        tensor = read().detach().cpu()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    except Exception as error:  # torch and safetensors raise of every kind for what they cannot convert
        raise StateError(f"{file}: {name} cannot be read: {first_line(error)}") from None


def _is_packed(path: Path) -> bool:
    if find_spec("safetensors") is None:
        return False
    from sparsify.storage.container import is_packed

    return is_packed(path)


def find(path: str | Path) -> Saved:
    """Return the weights in a folder of transformers, in a file, or in a packed file. Raises StateError."""
    path = Path(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        try:
            check_regular(path)
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror or error}") from None
        if _is_packed(path):
            return Saved(path, (path,), packed=True)
        if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
            raise StateError(f"{path} is neither a file of weights (.safetensors, .bin) nor a packed file")
        return Saved(path, (path,))
    return Saved(path, in_folder(path))
