"""Bytes on disk, as they are and compressed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

LEVEL = 19


@dataclass(frozen=True)
class Size:
    """Bytes of a file, raw and after zstd (level 19). A dense format stores zeros: only `zstd` shrinks."""

    raw: int
    zstd: int

    def to_dict(self) -> dict[str, int]:
        """Return both as plain data."""
        return asdict(self)


def size_of(file: Path) -> Size:
    """Measure a file."""
    import zstandard

    data = file.read_bytes()
    return Size(len(data), len(zstandard.ZstdCompressor(level=LEVEL).compress(data)))
