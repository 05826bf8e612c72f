"""Checkpoint folders: which are whole, of which run they are, and which is the last of them.

A trainer writes a dozen files one after the other; killed between two of them, it leaves a folder that it would
later take for a checkpoint. A marker, written last, names the run and lists every file with its size and its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from sparsify import StateError, checkpoint, files

MARKER = "complete.json"
NAME = re.compile(r"checkpoint-([0-9]+)")
CHUNK = 1 << 22


@dataclass(frozen=True)
class Marker:
    """What a marker says: the run that wrote the checkpoint, and (bytes, sha256) of every file."""

    run: str
    files: dict[str, tuple[int, str]]


def new_run() -> str:
    """Return a name for a run that no other has."""
    return uuid.uuid4().hex


def mark(folder: Path, run: str) -> None:
    """Flush every file of a checkpoint to the disk and write the marker. Raises StateError."""
    described = {name: _described(folder / name, flush=True) for name in _files(folder)}
    listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in described.items()}
    checkpoint.write_text(folder / MARKER, json.dumps({"run": run, "files": listed}, indent=1) + "\n")


def marker(folder: Path) -> Marker:
    """Return what the marker of a checkpoint says. Raises StateError where it is missing or not one of ours."""
    if not folder.is_dir():
        raise StateError(f"{folder}: no such checkpoint")
    if not (folder / MARKER).exists():
        raise StateError(f"{folder} is not a whole checkpoint: {MARKER}, which is written last, is missing")
    data = files.read_json(folder / MARKER)
    try:
        found = Marker(_text(data["run"]), {_inside(name): _file(file) for name, file in data["files"].items()})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else "its entries are not as they are written"
        raise StateError(f"{folder / MARKER} is not a marker that sparsify wrote: {reason}") from None
    return found


def check(folder: Path, run: str | None = None) -> Marker:
    """Return the marker of a checkpoint whose files are all as they were when it was marked.

    Raises StateError for any other, and for one of another run than `run`.
    """
    found = marker(folder)
    if run is not None and found.run != run:
        raise StateError(f"{folder} is of another run ({found.run[:8]}, this one is {run[:8]})")
    for name, described in found.files.items():
        try:
            files.check_regular(folder / name)
            now = _described(folder / name)
        except FileNotFoundError:
            raise StateError(f"{folder} is damaged: {name} is missing") from None
        except OSError as error:
            raise StateError(f"{folder} is damaged: {name}: {error.strerror or error}") from None
        if now != described:
            raise StateError(f"{folder} is damaged: {name} is not as it was written")
    return found


def is_marked(folder: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (folder / MARKER).exists()


def refuse_others(directory: str | Path, run: str, instead: str) -> None:
    """Raise StateError, with `instead` for what to do, if a marked checkpoint in `directory` is of another run."""
    others = [folder.name for folder in checkpoints(directory) if is_marked(folder) and marker(folder).run != run]
    if others:
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        raise StateError(f"{directory} holds checkpoints of another run ({shown}): {instead}")


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


def last_whole(directory: str | Path, run: str | None = None) -> Path | None:
    """Return the last checkpoint in `directory` that was written to its end, or None.

    Give it to `trainer.train(resume_from_checkpoint=…)`: the Trainer's own search (`True`) takes the last folder, be it
    half-written. Raises StateError if that checkpoint was damaged afterwards, and if checkpoints of different runs lie
    there (with `run`: of others than that one).
    """
    whole = [folder for folder in checkpoints(directory) if is_marked(folder)]
    if not whole:
        return None
    check(whole[-1])
    refuse_others(directory, run or marker(whole[-1]).run, "remove or move those that do not belong here")
    return whole[-1]


def remove(folder: Path) -> None:
    """Delete a checkpoint, its marker first, so that what a crash leaves of it is not taken for whole."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MARKER)


def _described(path: Path, *, flush: bool = False) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        if flush:
            os.fsync(file.fileno())
    return path.stat().st_size, digest.hexdigest()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _file(value: dict[str, object]) -> tuple[int, str]:
    size = value["bytes"]
    if not isinstance(size, int):
        raise TypeError
    return size, _text(value["sha256"])


def _inside(name: str) -> str:
    """Return a name that leads nowhere out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError
    return name
