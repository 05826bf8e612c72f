"""The files of a folder of transformers that hold its weights, as every command that reads some finds them."""

from __future__ import annotations

import os
from pathlib import Path

from sparsify.errors import SparsifyError, StateError, did_you_mean
from sparsify.files import contents, read_json

ONE, MANY = "model.safetensors", "model.safetensors.index.json"
OLD, OLD_MANY = "pytorch_model.bin", "pytorch_model.bin.index.json"


def in_folder(path: Path) -> tuple[Path, ...]:
    """Return the files of weights in a folder: safetensors, one or several, else torch's. Raises StateError."""
    if not os.path.isdir(path):
        near = [str(other) for other in contents(path.parent)]
        raise StateError(f"{path}: no such folder{did_you_mean(str(path), near, most=0)}")
    name = _first(path)
    if name is None:
        raise StateError(f"{path}: there are no weights here ({ONE})")
    if name in (ONE, OLD):
        return (path / name,)
    parts = _parts(path / name, StateError)
    missing = [part for part in parts if not os.path.isfile(path / part)]
    if missing:
        raise StateError(f"{path}: {missing[0]} is missing, which {name} names")
    return tuple(path / part for part in parts)


def check_index(path: Path, error: type[SparsifyError] = StateError) -> None:
    """Raise `error` where the index of a folder's weights, if it has one, leads out of the folder.

    transformers follows whatever an index names; so this comes before it reads a folder.
    """
    name = _first(path)
    if name in (MANY, OLD_MANY):
        _parts(path / name, error)


def _first(path: Path) -> str | None:
    """Return the file that transformers begins with: the first of those that there are."""
    return next((name for name in (ONE, MANY, OLD, OLD_MANY) if os.path.isfile(path / name)), None)


def _parts(index: Path, error: type[SparsifyError]) -> list[str]:
    """Return the names of the files that an index of several lists. Raises `error`."""
    data = read_json(index, error)
    listed = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(part, str) for part in listed.values()):
        raise error(f"{index}: `weight_map` is no mapping from names of tensors to names of files")
    parts = sorted(set(listed.values()))
    outside = [part for part in parts if part in ("", ".", "..") or "\0" in part or Path(part).name != part]
    if outside:
        raise error(f"{index}: {outside[0]!r} is no file of this folder")
    for part in parts:
        if not _stays(index.parent / part):
            raise error(
                f"{index}: {part} is a link that leads out of the folder, to {os.path.realpath(index.parent / part)}: "
                "put the file itself there"
            )
    return parts


def _stays(path: Path) -> bool:
    """Whether a file lies in its folder, links followed; or in the hub's cache, where each snapshot links to blobs."""
    there, folder = Path(os.path.realpath(path)).parent, Path(os.path.realpath(path.parent))
    return there == folder or (folder.parent.name == "snapshots" and there == folder.parent.parent / "blobs")
