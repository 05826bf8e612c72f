"""Whether bytes are those that were written."""

from __future__ import annotations

from zlib import crc32


def checked(data: bytes, checksum: int) -> bytes:
    """Return bytes with this checksum (CRC-32). Raises ValueError."""
    if crc32(data) != checksum:
        raise ValueError("its checksum does not fit: the file is damaged")
    return data
