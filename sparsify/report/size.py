"""Bytes on disk, as they are and compressed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THOROUGH, QUICK = 19, 3
LARGE = 8_000_000
"""Bytes above which the quick level is taken: the thorough one compresses a megabyte or two a second."""


class _Counter:
    """A file that only counts."""

    written = 0

    def write(self, data: bytes) -> int:
        self.written += len(data)
        return len(data)


@dataclass(frozen=True)
class Size:
    """Bytes of files, raw and after zstd at `level`. A dense format stores zeros: only `zstd` shrinks."""

    raw: int
    zstd: int
    level: int

    def to_dict(self) -> dict[str, int]:
        """Return all as plain data."""
        return asdict(self)


def size_of(files: Path | Iterable[Path]) -> Size:
    """Measure one file, or several together; they are read in pieces."""
    import zstandard

    paths = [files] if isinstance(files, Path) else list(files)
    raw = sum(path.stat().st_size for path in paths)
    level = THOROUGH if raw <= LARGE else QUICK
    counter: Any = _Counter()
    for path in paths:
        with path.open("rb") as file:
            zstandard.ZstdCompressor(level=level, threads=-1).copy_stream(file, counter)
    return Size(raw, int(counter.written), level)
