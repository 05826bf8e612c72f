"""Weights as they lie on disk: a folder of transformers (one file or several) or a file, read a tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsify.checkpoint import load
from sparsify.errors import StateError, did_you_mean, first_line
from sparsify.files import check_regular, contents, read_json

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


def find(path: str | Path) -> Saved:
    """Return the weights in a folder of transformers, or in a file. Raises StateError."""
    path = Path(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        try:
            check_regular(path)
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror or error}") from None
        if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
            raise StateError(f"{path} is no file of weights (.safetensors, .bin)")
        return Saved(path, (path,))
    if not os.path.isdir(path):
        near = [str(other) for other in contents(path.parent)]
        raise StateError(f"{path}: no such folder{did_you_mean(str(path), near, most=0)}")
    if os.path.isfile(path / ONE):
        return Saved(path, (path / ONE,))
    if os.path.isfile(path / MANY):
        parts = _parts(path / MANY)
        missing = [part for part in parts if not os.path.isfile(path / part)]
        if missing:
            raise StateError(f"{path}: {missing[0]} is missing, which {MANY} names")
        return Saved(path, tuple(path / part for part in parts))
    if os.path.isfile(path / OLD):
        return Saved(path, (path / OLD,))
    raise StateError(f"{path}: there are no weights here ({ONE})")


def _parts(index: Path) -> list[str]:
    """Return the names of the files that an index of several lists. Raises StateError."""
    data = read_json(index)
    listed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(part, str) for part in listed.values()):
        raise StateError(f"{index}: `weight_map` is no mapping from names of tensors to names of files")
    parts = sorted(set(listed.values()))
    outside = [part for part in parts if part in ("", ".", "..") or "\0" in part or Path(part).name != part]
    if outside:
        raise StateError(f"{index}: {outside[0]!r} is no file of this folder")
    return parts
