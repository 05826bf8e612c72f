"""The outside of a packed file: a file of safetensors that holds nothing but bytes.

Entry `header` is the header (JSON, compressed), entries `0`, `1`, … are tensors and small files. The metadata names
format and version, and the header's size and checksum.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any
from zlib import crc32

from sparsify.errors import StateError, first_line
from sparsify.files import check_regular
from sparsify.storage.checks import checked
from sparsify.storage.squeezed import LEVEL, squeeze, widen

FORMAT, VERSION = "sparsify-packed", 1
HEADER = "header"
LARGEST_HEADER = 1 << 28
SMALL_HEADER, TIMES = 1 << 20, 200
"""A header beyond the first may be this many times as large as its compressed form."""

COPIED = 1 << 22


def write(file: IO[bytes], header: bytes, data: IO[bytes], lengths: Iterable[int]) -> int:
    """Write a packed file: `data` holds the entries, one after the other, with these lengths. Return all its bytes."""
    codec, small = squeeze(header, LEVEL)
    metadata = {
        "format": FORMAT, "version": str(VERSION), "codec": codec, "size": str(len(header)), "crc32": str(crc32(small)),
    }  # fmt: skip
    entries: dict[str, Any] = {"__metadata__": metadata, HEADER: _entry(0, len(small))}
    end = len(small)
    for number, length in enumerate(lengths):
        entries[str(number)] = _entry(end, end + length)
        end += length
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text + small)
    data.seek(0)
    copyfileobj(data, file, COPIED)
    return 8 + len(text) + end


def _entry(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


class Container:
    """A packed file that is open. Raises StateError for one that is damaged, of another version, or of others."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _opened(self.path)
        self.metadata: dict[str, str] = self._file.metadata() or {}
        if self.metadata.get("format") != FORMAT:
            raise StateError(f"{path} is no packed file (`sparsify pack` writes them)")
        version = self.metadata.get("version")
        if version != str(VERSION):
            raise StateError(f"{path} is a packed file of version {version}; this sparsify reads version {VERSION}")
        self.size = os.path.getsize(self.path)
        self._names = set(self._file.keys())

    def header(self) -> bytes:
        """Return the header's text."""
        data = self.entry(HEADER)
        try:
            size, codec = int(self.metadata["size"]), self.metadata["codec"]
            if not 0 <= size <= min(LARGEST_HEADER, max(SMALL_HEADER, TIMES * len(data))):
                raise ValueError("it claims an impossible size")
            return widen(codec, checked(data, int(self.metadata["crc32"])), size)
        except (KeyError, ValueError) as error:
            raise StateError(f"{self.path} is damaged: its header: {first_line(error)}") from None

    def entry(self, name: str) -> bytes:
        """Return the bytes of an entry."""
        if name not in self._names:
            raise StateError(f"{self.path} is damaged: it has no entry {name}")
        piece = self._file.get_slice(name)
        if piece.get_dtype() != "U8" or len(piece.get_shape()) != 1:
            raise StateError(f"{self.path} is damaged: entry {name} is not made of bytes")
        return bytes(self._file.get_tensor(name).tobytes())


def _opened(path: Path) -> Any:
    """Return the file, opened by safetensors, which checks its own header. Raises StateError."""
    import safetensors

    try:
        check_regular(path)
        return safetensors.safe_open(path, framework="numpy")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StateError(f"{path} cannot be read: {first_line(error)}") from None


def is_packed(path: str | Path) -> bool:
    """Whether a file says that it is a packed one, of whatever version; False for all that cannot be read."""
    try:
        return (_opened(Path(path)).metadata() or {}).get("format") == FORMAT
    except StateError:
        return False
