"""Where numbers are kept, in a tensor read as one row: as a bitmap, or as the gaps between them in bytes.

A gap byte below 255 is that many zeros and then a number; 255 is 255 zeros and no number. Zeros after the last number
are not written. Both are read in pieces that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sparsify.storage.planes import Bits, Bytes

ESCAPE = 255
PIECE = 1 << 18
"""Elements, or gap bytes, that are read at a time; a multiple of 8."""

Indices = npt.NDArray[np.int64]


def bitmap(kept: npt.NDArray[np.bool_]) -> Bytes:
    """Return a bit for each element, the first in the lowest bit."""
    return np.packbits(kept, bitorder="little")


def bitmap_size(elements: int) -> int:
    """Return the bytes of a bitmap."""
    return -(-elements // 8)


def gaps(kept: npt.NDArray[np.bool_]) -> Bytes:
    """Return the gap bytes."""
    places = np.flatnonzero(kept)
    zeros = np.diff(places, prepend=-1) - 1
    escapes = zeros // ESCAPE
    ends = np.cumsum(escapes + 1)
    written = np.full(int(ends[-1]) if len(ends) else 0, ESCAPE, np.uint8)
    written[ends - 1] = zeros % ESCAPE
    return written


def most_gaps(elements: int, kept: int) -> int:
    """Return how many gap bytes there are at most."""
    return kept + elements // ESCAPE


def from_bitmap(data: Bytes, elements: int) -> Iterator[tuple[int, Indices]]:
    """Yield (start, indices from there) of what is kept, a piece at a time. Raises ValueError."""
    if elements % 8 and int(data[-1]) >> elements % 8:
        raise ValueError("its bitmap has bits beyond its elements")
    for start in range(0, elements, PIECE):
        part = np.unpackbits(data[start // 8 : (start + PIECE) // 8], bitorder="little")
        yield start, np.flatnonzero(part.view(np.bool_))


def from_gaps(data: Bytes, elements: int) -> Iterator[tuple[int, Indices]]:
    """Yield (start, indices from there) of what is kept, a piece at a time. Raises ValueError."""
    start = 0
    for begin in range(0, len(data), PIECE):
        part = data[begin : begin + PIECE]
        numbers = part != ESCAPE
        ends = np.cumsum(part + numbers.astype(np.int64))
        yield start, (ends - 1)[numbers]
        start += int(ends[-1])
        if start > elements:
            raise ValueError("its gaps lead beyond its elements")


def place(out: Bits, pieces: Iterator[tuple[int, Indices]], values: Bits) -> None:
    """Write values, in order, to their places in a flat array of zeros. Raises ValueError where the numbers differ."""
    at = 0
    for start, indices in pieces:
        part = values[at : at + len(indices)]
        if len(part) != len(indices) or (len(indices) and start + int(indices[-1]) >= len(out)):
            raise ValueError("it keeps more numbers than it has values, or elements")
        out[start:][indices] = part
        at += len(indices)
    if at != len(values):
        raise ValueError("it has more values than places for them")


def all_indices(pieces: Iterator[tuple[int, Indices]], elements: int, kept: int) -> Indices:
    """Return the indices of what is kept. Raises ValueError where they are not `kept`, or beyond the elements."""
    found: Indices = np.empty(kept, np.int64)
    at = 0
    for start, indices in pieces:
        if at + len(indices) > kept:
            raise ValueError("it keeps more numbers than it has values")
        found[at : at + len(indices)] = indices + start
        at += len(indices)
    if at != kept or (kept and int(found[-1]) >= elements):
        raise ValueError("its positions are not as many as its values, or beyond its elements")
    return found
