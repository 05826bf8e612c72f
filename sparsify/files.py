"""Reading files that others wrote: regular ones only, bounded, never waiting for a pipe that nobody fills."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from sparsify.errors import SparsifyError, StateError

LARGEST_JSON = 1 << 28
DEEPEST_JSON = 100


def check_regular(path: str | Path) -> None:
    """Raise OSError for what is missing, and for what is no regular file (a folder, a pipe, a device)."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # it holds a NUL
        raise OSError(errno.EINVAL, "not a path") from None
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a pipe or a device")


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the first `most` + 1 bytes of a regular file. Raises OSError."""
    check_regular(path)
    with open(path, "rb") as file:
        return file.read(most + 1)


def contents(folder: str | Path) -> list[Path]:
    """Return what lies in a folder, sorted; nothing where there is no folder, or one that may not be read."""
    try:
        return sorted(Path(folder).iterdir())
    except (OSError, ValueError):
        return []


def read_json(path: str | Path, error: type[SparsifyError] = StateError) -> Any:
    """Return the plain data in a JSON file. Raises `error`, with the reason, for whatever cannot be read."""
    try:
        raw = read_bytes(path, LARGEST_JSON)
        if len(raw) > LARGEST_JSON:
            raise ValueError(f"larger than {LARGEST_JSON} bytes")
        data = json.loads(raw)
    except OSError as reason:
        raise error(f"{path} cannot be read: {(reason.strerror or str(reason)).lower()}") from None
    except RecursionError:
        raise error(f"{path} cannot be read: nested too deeply") from None
    except ValueError as reason:
        raise error(f"{path} cannot be read: {reason}") from None
    if _deeper(data, DEEPEST_JSON):
        raise error(f"{path} cannot be read: nested deeper than {DEEPEST_JSON} levels")
    return data


def _deeper(data: Any, levels: int) -> bool:
    """Whether plain data is nested deeper than that; without recursion."""
    level = [data]
    for _ in range(levels):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
