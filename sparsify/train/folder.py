"""What may be written into `--out`: nothing over what is not ours, nothing over a run unless that is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from sparsify.errors import StateError
from sparsify.lock import FILE as LOCK
from sparsify.train import settings

CHECKPOINTS = "checkpoints"


def check(directory: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise StateError for a folder in which a run cannot begin, or from which none can go on."""
    try:
        if directory.is_symlink() and not directory.exists():
            raise StateError(f"{directory} is a link whose target does not exist; --out must be a folder")
        if directory.exists() and not directory.is_dir():
            raise StateError(f"{directory} is a file; --out must be a folder")
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    except OSError as error:
        raise StateError(f"{directory} cannot be read: {(error.strerror or str(error)).lower()}") from None
    begun = settings.FILE in names
    if resume and not begun:
        raise StateError(f"{directory}: there is no run to resume here ({settings.FILE} is missing)")
    if resume or all(name == LOCK or _is_leftover(name) for name in names):
        return
    if not begun:
        raise StateError(f"{directory} is not empty, and holds no run of sparsify train: choose another folder")
    if not overwrite:
        raise StateError(f"{directory} holds a run already: add --resume to continue it, or --overwrite to start again")


def clear(directory: Path) -> None:
    """Empty the folder of an earlier run, the record of it last. Raises StateError."""
    paths = [path for path in directory.iterdir() if path.name != LOCK]
    try:
        for path in sorted(paths, key=lambda path: path.name == settings.FILE):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise StateError(f"{error.filename} cannot be removed: {error.strerror}") from None


def tidy(directory: Path) -> None:
    """Delete half-written files that a killed run has left beside those it meant to write."""
    for path in directory.iterdir():
        if _is_leftover(path.name):
            path.unlink(missing_ok=True)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")
