"""The files of a folder of transformers that hold its weights."""

from __future__ import annotations

import os
from pathlib import Path

from sparsify.errors import StateError, did_you_mean
from sparsify.files import contents, read_json

ONE, MANY = "model.safetensors", "model.safetensors.index.json"
OLD = "pytorch_model.bin"


def in_folder(path: Path) -> tuple[Path, ...]:
    """Return the files of weights in a folder: safetensors, one or several, else torch's. Raises StateError."""
    if not os.path.isdir(path):
        near = [str(other) for other in contents(path.parent)]
        raise StateError(f"{path}: no such folder{did_you_mean(str(path), near, most=0)}")
    if os.path.isfile(path / ONE):
        return (path / ONE,)
    if os.path.isfile(path / MANY):
        parts = _parts(path / MANY)
        missing = [part for part in parts if not os.path.isfile(path / part)]
        if missing:
            raise StateError(f"{path}: {missing[0]} is missing, which {MANY} names")
        return tuple(path / part for part in parts)
    if os.path.isfile(path / OLD):
        return (path / OLD,)
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
