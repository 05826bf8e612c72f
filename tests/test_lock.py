"""The lock of a folder: one process at a time, nothing left by a killed one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparsify import lock
from sparsify.errors import StateError, TrainingError
from sparsify.lock import FILE, FolderLock, only_run_in

HOLD = """
import sys, time
from sparsify.lock import FolderLock
kept = FolderLock(sys.argv[1], "…")
print("held", flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    try:
        with pytest.raises(TrainingError, match=rf"another run writes .* \(process {process.pid} on .*or go away"):
            FolderLock(tmp_path / "out", "go away")
        assert (tmp_path / "out" / FILE).is_file()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert (tmp_path / "out" / FILE).is_file()
    with only_run_in(tmp_path / "out", "") as taken:
        assert taken.held
        assert (tmp_path / "out" / FILE).read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / "out" / FILE).exists()
    assert (tmp_path / "out").is_dir(), "it was there before"


def test_folders_made_for_the_lock_go_with_it_if_they_are_empty(tmp_path: Path) -> None:
    with only_run_in(tmp_path / "a" / "b", ""):
        assert (tmp_path / "a" / "b" / FILE).is_file()
    assert not (tmp_path / "a").exists()
    with only_run_in(tmp_path / "a" / "b", ""):
        (tmp_path / "a" / "b" / "model").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["model"]


def test_one_process_cannot_hold_it_twice_and_release_is_final(tmp_path: Path) -> None:
    first = FolderLock(tmp_path, "")
    with pytest.raises(TrainingError):
        FolderLock(tmp_path, "")
    first.release()
    second = FolderLock(tmp_path, "")
    first.release()
    assert (tmp_path / FILE).is_file(), "releasing again does not touch the lock of another"
    with pytest.raises(TrainingError):
        FolderLock(tmp_path, "")
    second.release()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run before removes its file between our opening and our locking of it."""
    before, calls = lock._lock, []

    def late(descriptor: int) -> None:
        if not calls:
            (tmp_path / FILE).unlink()
        calls.append(descriptor)
        before(descriptor)

    monkeypatch.setattr(lock, "_lock", late)
    taken = FolderLock(tmp_path, "")
    monkeypatch.undo()
    assert len(calls) == 2
    with pytest.raises(TrainingError):
        FolderLock(tmp_path, "")
    taken.release()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(descriptor: int) -> None:
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(lock, "_lock", missing)
    with only_run_in(tmp_path, "") as taken:
        assert not taken.held


@pytest.mark.parametrize("how", ["file", "under a file", "loop", "long", "link as lock"])
def test_a_place_that_cannot_be_written_to(tmp_path: Path, how: str) -> None:
    places = {"file": tmp_path / "file", "under a file": tmp_path / "file" / "x", "loop": tmp_path / "loop"}
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = places.get(how, tmp_path / ("x" * 300))
    if how == "link as lock":
        place = tmp_path
        (tmp_path / FILE).symlink_to(tmp_path / "file")
    with pytest.raises(StateError, match="cannot be written to"):
        FolderLock(place, "")
    assert (tmp_path / "file").read_text() == "mine"
