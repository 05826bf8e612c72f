"""One run in a folder: a lock that the operating system holds for a process, and lets go when the process ends.

The lock file lies in the folder while a run writes there. A run that is killed leaves the file, but no lock: the next
run takes it over.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparsify.errors import StateError, TrainingError

FILE = ".sparsify.lock"
LOCKED = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
UNKNOWN = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Errors of file systems that have no locks, such as some of clusters."""


class FolderLock:
    """The lock of a folder, from its making to `release()`.

    Makes the folder where it is missing. `held` is False on a file system without locks. Raises TrainingError, with
    `instead` for what else to do, where another run has the folder; StateError where it cannot be written to.
    """

    def __init__(self, folder: str | Path, instead: str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self._made: list[Path] = []
        self._descriptor: int | None = None
        try:
            self._made = _make(self.folder)
            self.held = self._take()
        except OSError as error:
            self.release()
            if error.errno in LOCKED and not isinstance(error, PermissionError):
                raise TrainingError(
                    f"{folder}: another run writes into this folder{_holder(self.path)}; "
                    f"wait for its end, stop it, or {instead}"
                ) from None
            raise StateError(f"{folder} cannot be written to: {(error.strerror or str(error)).lower()}") from None

    def _take(self) -> bool:
        """Lock the file, and see to it that it is the one that lies there: the run before may just have removed it."""
        while True:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                _lock(self._descriptor)
            except OSError as error:
                self._close()
                if error.errno in LOCKED:
                    raise BlockingIOError(errno.EAGAIN, "locked") from None
                if error.errno in UNKNOWN:
                    return False
                raise
            if _same(self._descriptor, self.path):
                break
            self._close()
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
        return True

    def release(self) -> None:
        """Remove the lock file and let go; folders that were made for it and are empty still go too. Again: nothing."""
        if self._descriptor is not None:
            with suppress(OSError):
                if _same(self._descriptor, self.path):
                    self.path.unlink()
            self._close()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()
        self._made = []

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


@contextmanager
def only_run_in(folder: str | Path, instead: str) -> Iterator[FolderLock]:
    """Hold the lock of a folder. Raises as `FolderLock` does."""
    lock = FolderLock(folder, instead)
    try:
        yield lock
    finally:
        lock.release()


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return what was made, the uppermost first."""
    missing = [folder, *folder.parents]
    missing = missing[: next((i for i, path in enumerate(missing) if path.is_dir()), len(missing))]
    made = []
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        made.append(path)
    return made


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _holder(path: Path) -> str:
    """Return who has the lock, as its file says."""
    try:
        pid, _, host = path.read_bytes()[:300].decode("ascii", "replace").strip().partition(" ")
    except OSError:
        return ""
    return f" (process {pid} on {host})" if pid.isdigit() and host else ""


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Lock a byte far behind what the file holds, so that others can read it."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
