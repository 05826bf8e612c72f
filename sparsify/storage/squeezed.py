"""Bytes made smaller with zstd where that helps, and made whole again within a known size.

Three forms: `raw`; `zstd`; `pairs`: bytes of at most 16 values, two made one, and then zstd. zstd's entropy coder
spends at least a bit a byte, and the exponents of pruned weights are worth less than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import zstandard

from sparsify.storage.bound import of_bytes

Codec = Literal["raw", "zstd", "pairs"]
Squeezed = tuple[Codec, bytes]

RAW: Codec = "raw"
ZSTD: Codec = "zstd"
PAIRS: Codec = "pairs"
LEVEL = 19
QUICK = 3
TABLE = 16
GOOD_ENOUGH = 1.03
"""Times the entropy of the bytes, within which the thorough level is not tried, unless the quick one finds repeats."""


def squeeze(data: bytes, level: int = LEVEL) -> Squeezed:
    """Return (codec, bytes), the smallest found; levels above the quick one are slow, and tried where it may pay."""
    alone, quick = _without_matches(data), _compressed(data, min(level, QUICK))
    found: list[tuple[Codec, bytes]] = [(RAW, data), (ZSTD, alone), (ZSTD, quick)]
    array = np.frombuffer(data, np.uint8)
    if (paired := _paired(array)) is not None:
        found.append((PAIRS, _without_matches(paired)))
    best = min(found, key=_length)
    if level > QUICK and (len(quick) < len(alone) or len(best[1]) > GOOD_ENOUGH * of_bytes(array)):
        best = min(best, (ZSTD, _compressed(data, level)), key=_length)
    return best


def _length(form: Squeezed) -> int:
    return len(form[1])


def _compressed(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(data)


def _without_matches(data: bytes) -> bytes:
    """Return data through zstd's entropy coder with next to no search for repeats, which in noise are accidents."""
    few = zstandard.ZstdCompressionParameters(
        compression_level=1, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
    )
    return zstandard.ZstdCompressor(compression_params=few).compress(data)


def _paired(data: npt.NDArray[np.uint8]) -> bytes | None:
    """Return a table of 16 values and, for each two bytes, a byte of their places in it; None for more values."""
    used = np.flatnonzero(np.bincount(data, minlength=256))
    if not 1 < len(used) <= TABLE or len(data) < 4 * TABLE:
        return None
    places = np.zeros(256, np.uint8)
    places[used] = np.arange(len(used))
    halves = places[data]
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    table = np.zeros(TABLE, np.uint8)
    table[: len(used)] = used
    joined = halves[::2] | (halves[1::2] << np.uint8(4))
    return table.tobytes() + bytes(joined.tobytes())


def _unpaired(data: bytes, size: int) -> bytes:
    table = np.frombuffer(data, np.uint8, TABLE)
    both = np.empty((256, 2), np.uint8)
    both[:, 0], both[:, 1] = np.tile(table, TABLE), np.repeat(table, TABLE)
    packed = np.frombuffer(data, np.uint8, offset=TABLE)
    whole: bytes = both.view(np.uint16).ravel()[packed].view(np.uint8)[:size].tobytes()
    return whole


def smallest(candidates: dict[str, Callable[[], bytes]], level: int) -> tuple[str, int, Squeezed]:
    """Return (name, size, its squeezed form) of the candidate that becomes smallest; the first of equals."""
    made = {name: make() for name, make in candidates.items()}
    found = [(name, len(data), squeeze(data, level)) for name, data in made.items()]
    return min(found, key=lambda each: len(each[2][1]))


def widen(codec: str, data: bytes, size: int) -> bytes:
    """Return the `size` bytes that `squeeze` was given. Raises ValueError; never allocates more than that."""
    if codec == PAIRS:
        return _unpaired(_decompressed(data, TABLE + (size + 1) // 2), size)
    if codec == ZSTD:
        return _decompressed(data, size)
    if len(data) != size:
        raise ValueError(f"it has {len(data):,} bytes where {size:,} are due")
    return data


def _decompressed(data: bytes, size: int) -> bytes:
    try:
        if zstandard.get_frame_parameters(data).content_size != size:  # else it would allocate what the frame says
            raise ValueError("its own header gives another size")
        whole = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be decompressed: {error}") from None
    if len(whole) != size:
        raise ValueError(f"it has {len(whole):,} bytes where {size:,} are due")
    return whole
