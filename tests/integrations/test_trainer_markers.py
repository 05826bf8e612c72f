"""Markers and states in checkpoints that are not what we write: one error, at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sparsify import StateError
from sparsify.checkpoint import save
from sparsify.integrations.common.checkpoints import MARKER, check, mark, marker
from sparsify.integrations.transformers import last_whole
from tests.trainers import cut, resume

MARKERS = {
    "no object": "[]",
    "a number": "7",
    "no files": '{"run": "x"}',
    "files of a wrong type": '{"run": "x", "files": ["model.safetensors"]}',
    "a file of a wrong type": '{"run": "x", "files": {"model.safetensors": 3}}',
    "a size of a wrong type": '{"run": "x", "files": {"model.safetensors": {"bytes": "3", "sha256": "0"}}}',
    "no run": '{"files": {}}',
    "a run of a wrong type": '{"run": {}, "files": {}}',
    "a way out": '{"run": "x", "files": {"../../model": {"bytes": 3, "sha256": "0"}}}',
    "brackets": "[" * 100_000,
    "not JSON": '{"run":',
    "nothing": "",
    "not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("kind", MARKERS)
def test_a_marker_that_is_none_is_one_error(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    text = MARKERS[kind]
    (folder / MARKER).write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (check, last_whole):
        with pytest.raises(StateError, match=rf"{MARKER} (is not a marker that sparsify wrote|cannot be read)"):
            read(folder if read is check else tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_file_of_a_checkpoint_that_is_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    last = cut(tmp_path)
    (last / "optimizer.pt").unlink()
    os.mkfifo(last / "optimizer.pt") if kind == "pipe" else (last / "optimizer.pt").mkdir()
    with pytest.raises(StateError, match="checkpoint-6 is damaged: optimizer.pt"):
        check(last)


STATES: dict[str, Any] = {
    "no step": {"reached": None, "manager": {}},
    "a step of a wrong type": {"step": "6", "reached": None, "manager": {}},
    "no manager": {"step": 6, "reached": None},
    "a manager of a wrong type": {"step": 6, "reached": None, "manager": [1]},
    "an empty manager": {"step": 6, "reached": None, "manager": {}},
    "another step": {"step": 3, "reached": None, "manager": {}},
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_is_none_is_one_error(tmp_path: Path, kind: str) -> None:
    last = cut(tmp_path)
    run = marker(last).run
    save(last / "sparsify.pt", **STATES[kind])
    (last / MARKER).unlink()
    mark(last, run)
    with pytest.raises(StateError):
        resume(tmp_path, last)
