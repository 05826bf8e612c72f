"""Folders are put in the place of others whole: a full disk and an interruption leave what was there."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from sparsify import StateError
from sparsify.checkpoint import claim, replace_folder

FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


def there(folder: Path) -> dict[str, str]:
    """Return what lies in a folder's parent, hidden files too: path → text."""
    files = [path for path in folder.parent.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder.parent)): path.read_text() for path in files}


def filled(text: str) -> Any:
    def fill(made: Path) -> None:
        (made / "model").write_text(text)

    return fill


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(FULL),
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed: No space"),
    ],
)
def test_a_full_disk_leaves_what_was_there(error: Exception, tmp_path: Path) -> None:
    folder = replace_folder(tmp_path / "small", filled("before"))

    def fill(made: Path) -> None:
        (made / "model").write_text("half")
        raise error

    with pytest.raises(StateError, match="cannot be written: .*No space"):
        replace_folder(folder, fill)
    assert there(folder) == {"small/model": "before"}


def test_other_errors_are_what_they_were(tmp_path: Path) -> None:
    def fill(_: Path) -> None:
        raise StateError("it is not ours")

    with pytest.raises(StateError, match="^it is not ours$"):
        replace_folder(tmp_path / "small", fill)
    with pytest.raises(ZeroDivisionError):
        replace_folder(tmp_path / "small", lambda _: 1 / 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", [1, 2])
def test_an_interruption_leaves_what_was_there(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = replace_folder(tmp_path / "small", filled("before"))
    calls, replace = [0], os.replace

    def interrupted(*paths: Any) -> None:
        calls[0] += 1
        if calls[0] == failing:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, filled("after"))
    assert there(folder) == {"small/model": "before"}
    monkeypatch.undo()
    replace_folder(folder, filled("after"))
    assert there(folder) == {"small/model": "after"}
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_two_at_once_leave_one_whole(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def write(text: str) -> None:
        for _ in range(20):
            try:
                replace_folder(tmp_path / "small", filled(text))
            except StateError as error:  # the other one was quicker
                errors.append(error)
                assert "has changed meanwhile" in str(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert there(tmp_path / "small") in ({"small/model": "one"}, {"small/model": "two"})
    assert len(errors) < 40


@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
def test_a_claim_is_broken_by_whoever_writes_meanwhile(before: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if before == "file":
        path.write_text("old")
    elif before == "folder":
        path.mkdir()
    claimed = claim(path)
    claimed()
    if before == "folder":
        (path / "new").write_text("new")
    else:
        other = tmp_path / "other"
        other.write_text("old")
        os.replace(other, path)
    with pytest.raises(StateError, match=r"out has changed meanwhile.*left as it is"):
        claimed()
