"""Checkpoints that are whole or absent: written beside, flushed, then renamed over the previous one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from sparsify.errors import SparsifyError, StateError, first_line
from sparsify.files import check_regular

CHANGED = "{path} has changed meanwhile, by another run perhaps: it is left as it is now"
MEANWHILE = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
"""Errors of the system where another process put, or took away, a folder while ours was put in its place."""


def write_whole(path: str | Path, write: Callable[[IO[bytes]], Any]) -> Path:
    """Let `write` fill a temporary file in the same folder, flush it to the disk, and rename it to `path`.

    Killed at any moment, either the old file or the new one is there. Raises StateError where the folder
    cannot be written to; the previous file is then untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return path


def replace_folder(folder: str | Path, fill: Callable[[Path], Any]) -> Path:
    """Let `fill` write into an empty folder beside, and put that in the place of `folder`, whatever is there.

    Of a link it is what the link leads to. What was there stays whole until the new one stands in its place. Raises
    StateError where it cannot be written (a full disk, too, of which safetensors and torch tell in their own ways);
    what was there is then untouched.
    """
    folder = Path(folder)
    place = Path(os.path.realpath(folder))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))
        try:
            made.chmod(0o777 & ~umask())
            fill(made)
            try:
                _exchange(made, place)
            except OSError as error:
                if error.errno not in MEANWHILE:
                    raise
                raise StateError(CHANGED.format(path=folder)) from None
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except SparsifyError:
        raise
    except Exception as error:
        if not about_files(error):
            raise
        raise StateError(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}"
        ) from None
    return folder


def claim(path: str | Path) -> Callable[[], None]:
    """Return what is called when `path` is about to be written, after long work.

    It raises StateError where somebody has written there meanwhile, such as the same command started twice: the first
    that ends has the place, and is not undone by the other.
    """
    before = _identity(path)

    def check() -> None:
        if _identity(path) != before:
            raise StateError(CHANGED.format(path=path))

    return check


def _identity(path: str | Path) -> tuple[int, int, int] | None:
    """Return what tells a file or folder from another of that name, and from itself before a change."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _exchange(made: Path, folder: Path) -> None:
    """Put a folder in the place of another, which goes only when the new one is there. Raises OSError."""
    if not folder.is_dir():
        os.replace(made, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    try:
        os.replace(folder, old)
    except BaseException:
        old.rmdir()
        raise
    try:
        os.replace(made, folder)
    except BaseException:
        if folder.exists():  # another process has put its own there meanwhile
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def about_files(error: Exception) -> bool:
    """Whether an error is about writing: torch and safetensors wrap those of the system in their own."""
    return isinstance(error, OSError) or any(
        word in f"{type(error).__name__} {error}"
        for word in ("SafetensorError", "PytorchStreamWriter", "inline_container")
    )


def umask() -> int:
    """Return the permissions that new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file whole."""
    return write_whole(path, lambda file: file.write(text.encode()))


def save(path: str | Path, **parts: Any) -> Path:
    """Write a checkpoint of state dicts and plain data. Raises StateError if it cannot be written.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from sparsify import checkpoint
        >>> path = checkpoint.save(tempfile.mkdtemp() + "/last.pt", model={"weight": torch.ones(2)}, step=7)
        >>> checkpoint.load(path)
        {'model': {'weight': tensor([1., 1.])}, 'step': 7}
    """
    return write_whole(path, lambda file: torch.save(parts, file))


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, without running any code in it. Raises StateError for a missing or damaged file.

    Examples:
        >>> load("nowhere.pt")
        Traceback (most recent call last):
        sparsify.errors.StateError: nowhere.pt: no such checkpoint
    """
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # what is damaged, we say ourselves
            parts = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise StateError(f"{path}: no such checkpoint") from None
    except Exception as error:  # a damaged pickle raises of every kind
        raise StateError(f"{path} is not a whole checkpoint: {first_line(error)}") from None
    if not isinstance(parts, dict):
        raise StateError(f"{path} is not a checkpoint that sparsify wrote: it holds a {type(parts).__name__}")
    return parts
