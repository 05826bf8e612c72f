"""The Trainer's checkpoint folders: which are whole, and which is the last of them.

The Trainer writes a dozen files one after the other; killed between two of them, it leaves a folder that it
would later take for a checkpoint. A marker, written last, lists every file with its size and its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from sparsify import StateError, checkpoint

MARKER = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")
CHUNK = 1 << 22


def mark(folder: Path) -> None:
    """Flush every file of a checkpoint to the disk and write the marker. Raises StateError."""
    files = {name: _described(folder / name, flush=True) for name in _files(folder)}
    checkpoint.write_text(folder / MARKER, json.dumps({"files": files}, indent=1) + "\n")


def check(folder: Path) -> None:
    """Raise StateError unless every file of the checkpoint is as it was when it was marked."""
    if not folder.is_dir():
        raise StateError(f"{folder}: no such checkpoint")
    try:
        files = json.loads((folder / MARKER).read_text())["files"]
    except FileNotFoundError:
        raise StateError(f"{folder} is not a whole checkpoint: {MARKER}, which is written last, is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{folder / MARKER} cannot be read: {error}") from None
    for name, described in files.items():
        if not (folder / name).is_file():
            raise StateError(f"{folder} is damaged: {name} is missing")
        if _described(folder / name) != described:
            raise StateError(f"{folder} is damaged: {name} is not as it was written")


def step_of(folder: Path) -> int:
    """Return N of a folder `checkpoint-N`, or −1."""
    match = NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def checkpoints(directory: str | Path) -> list[Path]:
    """Return the folders `checkpoint-N` of a directory, whole or not, in the order of N."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if path.is_dir() and step_of(path) >= 0), key=step_of)


def last_whole(directory: str | Path) -> Path | None:
    """Return the last checkpoint in `directory` that was written to its end, or None.

    Give it to `trainer.train(resume_from_checkpoint=…)`: the Trainer's own search (`True`) takes the last folder, be it
    half-written. Raises StateError if that checkpoint was damaged afterwards.
    """
    for folder in reversed(checkpoints(directory)):
        if (folder / MARKER).is_file():
            check(folder)
            return folder
    return None


def remove(folder: Path) -> None:
    """Delete a checkpoint, its marker first, so that what a crash leaves of it is not taken for whole."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MARKER)


def _described(path: Path, *, flush: bool = False) -> dict[str, int | str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        if flush:
            os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
