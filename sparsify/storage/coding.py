"""A tensor to planes, as small as it gets, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from sparsify.storage import bound, integers
from sparsify.storage.checks import checked
from sparsify.storage.dtypes import CUT, IN_PLANES, dtype_of
from sparsify.storage.header import Layout, Stored
from sparsify.storage.planes import UNSIGNED, Bits, bits_of, join, split, tensor_of
from sparsify.storage.positions import Indices, bitmap, from_bitmap, from_gaps, gaps, place
from sparsify.storage.squeezed import LEVEL, QUICK, Squeezed, smallest, squeeze, widen

PLANE_COST = 8
"""About what a plane takes in the header."""

FEW_ZEROS = 1 / 16
"""Only below this fraction of zeros may it pay to store them as numbers."""

LIKELY = 1.05
"""Times the best so far: where a quick try of the bytes as they are is below it, a thorough one is made."""

WITHOUT = {"gaps": 0}
"""Fields of a form without positions."""

Fields = dict[str, Any]
"""Of a `Stored`."""


@dataclass(frozen=True)
class Error:
    """What integers with scales changed. Relative to the largest, and to the mean, magnitude of the tensor."""

    largest: float
    mean: float
    became_zero: int
    """Numbers that were not zero and are now."""


@dataclass(frozen=True)
class Coded:
    """A tensor in planes."""

    stored: Stored
    planes: tuple[bytes, ...]
    bound: float
    """Bytes by the order-0 entropy of positions and values (integers: with their scales as they are)."""

    nonzeros: int = 0
    """Numbers whose bits are not those of +0.0, however they are stored."""

    error: Error | None = None

    @property
    def position_bytes(self) -> int:
        """Bytes that say where numbers are kept."""
        return len(self.planes[0]) if self.stored.has_positions else 0

    @property
    def scale_bytes(self) -> int:
        """Bytes of scales."""
        return 0 if self.stored.exact else len(self.planes[-1])

    @property
    def value_bytes(self) -> int:
        """Bytes of numbers."""
        return sum(map(len, self.planes)) - self.position_bytes - self.scale_bytes


def encode(tensor: Tensor, *, level: int = LEVEL, value_type: str | None = None, group: int = 64) -> Coded:
    """Return a tensor in planes; bit for bit, or where `value_type` is int8 or int4 and it can be, as integers.

    It can be where the tensor is of float32, float16 or bfloat16, everything in it is finite, and stays so. Raises
    StateError for a type that cannot be stored.
    """
    dtype = dtype_of(tensor.dtype)
    bits = bits_of(tensor)
    kept = int(np.count_nonzero(bits))
    fields: Fields = {"dtype": dtype.name, "shape": tuple(tensor.shape), "value_type": dtype.name, "kept": len(bits)}
    if dtype.name not in IN_PLANES:
        data = bits.view(np.uint8)
        return _coded({**fields, "layout": "raw"}, [squeeze(data.tobytes(), level)], bound.of_bytes(data), kept)
    places = bits != 0
    fields["kept"] = kept
    values = bits if kept == len(bits) else bits[places]
    least = bound.of_positions(len(bits), kept)
    positions: list[Squeezed] = []
    if kept < len(bits):
        fields["layout"], fields["gaps"], squeezed = _positions(places, level)
        positions.append(squeezed)
    if value_type is not None and dtype.name in CUT and _finite(values, dtype.torch):
        numbers = tensor_of(values, dtype.torch, (kept,))
        fields_of_integers = {**fields, "value_type": value_type, "group": group}
        found = _as_integers(fields_of_integers, positions, numbers, least, level)
        if found is not None:
            return found
    least += bound.of_floats(values, dtype.name)
    options = []
    if positions:
        options.append((fields, [*positions, *_squeezed(values, level)]))
    if kept >= (1 - FEW_ZEROS) * len(bits):
        options.append(({**fields, **WITHOUT, "kept": len(bits), "layout": "dense"}, _squeezed(bits, level)))
    whole = bits.tobytes() if kept else b""
    if kept and len(squeeze(whole, QUICK)[1]) < LIKELY * min(_cost(planes) for _, planes in options):
        options.append(({**fields, **WITHOUT, "kept": len(bits), "layout": "raw"}, [squeeze(whole, level)]))
    return _coded(*min(options, key=lambda option: _cost(option[1])), least, kept)


def _finite(values: Bits, dtype: torch.dtype) -> bool:
    return bool(torch.isfinite(tensor_of(values, dtype, (len(values),))).all())


def _squeezed(values: Bits, level: int) -> list[Squeezed]:
    return [squeeze(plane.tobytes(), level) for plane in split(values)]


def _cost(planes: list[Squeezed]) -> int:
    return sum(len(data) + PLANE_COST for _, data in planes)


def _positions(places: Any, level: int) -> tuple[Layout, int, Squeezed]:
    """Return (bitmap or gaps, bytes of gaps before compression, squeezed), whichever is smaller."""
    candidates: dict[str, Callable[[], bytes]] = {
        "bitmap": lambda: bitmap(places).tobytes(),
        "gaps": lambda: gaps(places).tobytes(),
    }
    layout, size, squeezed = smallest(candidates, level)
    return ("bitmap", 0, squeezed) if layout == "bitmap" else ("gaps", size, squeezed)


def _as_integers(fields: Fields, positions: list[Squeezed], values: Tensor, least: float, level: int) -> Coded | None:
    """Return finite values as integers with scales; None where a scale, rounded up, would make infinities of them."""
    kind, group = fields["value_type"], fields["group"]
    found = integers.cut(values, kind, group)
    after = integers.numbers(found.integers, found.scales, group, values.dtype)
    if not bool(torch.isfinite(after).all()):
        return None
    data = integers.to_bytes(found.integers, kind)
    planes = [*positions, squeeze(data.tobytes(), level), squeeze(found.scales.astype("<u2").tobytes(), level)]
    least += bound.of_bytes(found.integers.view(np.uint8)) + integers.SCALE_SIZE * len(found.scales)
    return _coded({"layout": "dense", **fields}, planes, least, len(values), _error(values, after))


def _error(before: Tensor, after: Tensor) -> Error:
    first, second = before.double(), after.double()
    change = (second - first).abs()
    size = first.abs()
    if not len(change) or not float(size.max()):
        return Error(0.0, 0.0, 0)
    zeroed = int(((second == 0) & (first != 0)).sum())
    return Error(float(change.max() / size.max()), float(change.mean() / size.mean()), zeroed)


def _coded(fields: Fields, planes: list[Squeezed], least: float, nonzeros: int, error: Error | None = None) -> Coded:
    described = tuple((len(data), codec, crc32(data)) for codec, data in planes)
    return Coded(Stored(**fields, planes=described), tuple(data for _, data in planes), least, nonzeros, error)


def widened(stored: Stored, data: bytes) -> list[bytes]:
    """Return the planes in an entry of the file, whole. Raises ValueError for what is damaged."""
    if len(data) != sum(size for size, _, _ in stored.planes):
        raise ValueError("its planes are shorter or longer than its header says")
    found = []
    begin = 0
    for size, (length, codec, checksum) in zip(stored.sizes(), stored.planes, strict=True):
        found.append(widen(codec, checked(data[begin : begin + length], checksum), size))
        begin += length
    return found


def pieces(stored: Stored, positions: bytes) -> Iterator[tuple[int, Indices]]:
    """Yield (start, indices from there) of what a tensor keeps, from its first plane."""
    read = from_bitmap if stored.layout == "bitmap" else from_gaps
    return read(np.frombuffer(positions, np.uint8), stored.elements)


def values_of(stored: Stored, planes: list[bytes]) -> Bits:
    """Return the bits of the numbers that are stored, in the tensor's type [kept]; `planes` without positions."""
    arrays = [np.frombuffer(plane, np.uint8) for plane in planes]
    if stored.exact:
        return join(arrays)
    ints = integers.from_bytes(arrays[0], stored.value_type, stored.kept)
    scales = arrays[1].view("<u2")
    return bits_of(integers.numbers(ints, scales, stored.group, stored.number_type.torch))


def decode(stored: Stored, data: bytes) -> Tensor:
    """Return the tensor in an entry of the file. Raises ValueError for what is damaged."""
    planes = widened(stored, data)
    dtype = stored.number_type
    kind = UNSIGNED[dtype.size]
    if stored.layout == "raw":
        return tensor_of(np.frombuffer(bytearray(planes[0]), kind), dtype.torch, stored.shape)
    if not stored.has_positions:
        return tensor_of(values_of(stored, planes), dtype.torch, stored.shape)
    out = np.zeros(stored.elements, kind)
    place(out, pieces(stored, planes[0]), values_of(stored, planes[1:]))
    return tensor_of(out, dtype.torch, stored.shape)
