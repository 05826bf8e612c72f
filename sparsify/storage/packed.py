"""A packed file, read a tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sparsify.errors import StateError, did_you_mean
from sparsify.storage import integers
from sparsify.storage.checks import checked
from sparsify.storage.coding import decode, pieces, values_of, widened
from sparsify.storage.container import Container
from sparsify.storage.csr import Csr
from sparsify.storage.header import Header, Stored, read_header
from sparsify.storage.planes import tensor_of
from sparsify.storage.positions import all_indices
from sparsify.storage.squeezed import widen

LEAST, TIMES = 1 << 26, 1000
"""Unpacked, a file may be as large as the first, or this many times as large as it is, whichever is more."""

T = TypeVar("T")


class PackedFile:
    """The tensors and small files in a packed file; nothing is read before it is asked for.

    Raises StateError for a file that is damaged, is none of ours or of another version, or would become absurdly large:
    more than 64 MiB, and more than 1000 times its own bytes, unless `max_bytes` allows it.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._container = Container(self.path)
        self.header: Header = read_header(self._container.header(), self.path)
        most = max(LEAST, TIMES * self._container.size) if max_bytes is None else max_bytes
        if self.header.dense_bytes > most:
            raise StateError(
                f"{self.path} says that it unpacks to {self.header.dense_bytes:,} bytes, more than {most:,} "
                f"(from a file of {self._container.size:,}): if you trust it, allow them with max_bytes"
            )
        self._places = {named.name: named.stored for named in self.header.tensors}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._container.size

    def keys(self) -> list[str]:
        """Return the names of the tensors, as they were in their files."""
        return list(self._places)

    def names(self) -> Iterator[str]:
        """Yield the names of the tensors."""
        yield from self._places

    def info(self, name: str) -> Stored:
        """Return how a tensor is stored: type, shape, layout, numbers kept, type of values."""
        return self.header.stored[self._place(name)]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, dense, on the CPU, in memory of its own."""
        stored = self.info(name)
        return self._read(name, lambda data: decode(stored, data))

    def csr(self, name: str) -> Csr:
        """Return a tensor of floating-point numbers by rows; integers as they are stored, with their scales."""
        stored = self.info(name)
        if not stored.number_type.torch.is_floating_point or not stored.shape:
            raise StateError(f"{self.path}: {name} is no matrix or vector of real numbers: read it with tensor()")
        return self._read(name, lambda data: _by_rows(stored, data))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor), one after the other."""
        for name in self._places:
            yield name, self.tensor(name)

    def beside(self) -> list[str]:
        """Return the names of the small files."""
        return [file.name for file in self.header.beside]

    def text(self, name: str) -> bytes:
        """Return the bytes of a small file."""
        names = self.beside()
        if name not in names:
            raise StateError(f"{self.path} has no file {name}{did_you_mean(name, names)}")
        number = names.index(name)
        file = self.header.beside[number]
        _, codec, checksum = file.plane
        data = self._container.entry(str(len(self.header.stored) + number))
        return self._told(name, lambda: widen(codec, checked(data, checksum), file.size))

    def _place(self, name: str) -> int:
        if name not in self._places:
            raise StateError(f"{self.path} has no tensor {name}{did_you_mean(name, self._places)}")
        return self._places[name]

    def _read(self, name: str, read: Callable[[bytes], T]) -> T:
        data = self._container.entry(str(self._place(name)))
        return self._told(name, lambda: read(data))

    def _told(self, name: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except ValueError as error:
            raise StateError(f"{self.path} is damaged: {name}: {error}") from None


def _by_rows(stored: Stored, data: bytes) -> Csr:
    """Return a tensor by rows, from its entry."""
    planes = widened(stored, data)
    if stored.layout == "raw" or not stored.has_positions:
        return _dense_by_rows(stored, data) if stored.exact else _integers_by_rows(stored, planes, None)
    indices = all_indices(pieces(stored, planes[0]), stored.elements, stored.kept)
    if not stored.exact:
        return _integers_by_rows(stored, planes[1:], indices)
    values = tensor_of(values_of(stored, planes[1:]), stored.number_type.torch, (stored.kept,))
    return Csr(stored.shape, *_rows(stored, indices), values)


def _dense_by_rows(stored: Stored, data: bytes) -> Csr:
    flat = decode(stored, data).view(-1)
    bits = flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.uint8}[flat.element_size()])
    indices = bits.nonzero().view(-1)
    return Csr(stored.shape, *_rows(stored, indices.numpy()), flat[indices])


def _integers_by_rows(stored: Stored, planes: list[bytes], indices: Any) -> Csr:
    ints = integers.from_bytes(np.frombuffer(bytearray(planes[0]), np.uint8), stored.value_type, stored.kept)
    scales = np.frombuffer(planes[1], "<u2").astype(np.uint32) << np.uint32(16)
    places = np.arange(stored.kept) if indices is None else indices
    wide = torch.from_numpy(scales.view(np.float32))
    return Csr(stored.shape, *_rows(stored, places), torch.from_numpy(ints), wide, stored.group)


def _rows(stored: Stored, indices: Any) -> tuple[Tensor, Tensor]:
    """Return (where rows start, columns) of flat indices."""
    rows, width = stored.shape[0], max(math.prod(stored.shape[1:]), 1)
    starts = np.searchsorted(indices, np.arange(rows + 1) * width)
    columns = (indices % width).astype(np.int32 if width < 1 << 31 else np.int64)
    return torch.from_numpy(starts.astype(np.int64)), torch.from_numpy(columns)
