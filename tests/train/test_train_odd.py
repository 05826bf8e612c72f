"""`sparsify train` on odd folders, odd flags and odd terminals: one error before training, or none."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from sparsify.errors import DataError, PlanError, StateError
from sparsify.train.run import run
from tests import tiny
from tests.commands import ENVIRONMENT, words
from tests.train.test_train import recipe, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")


@pytest.mark.parametrize("kind", ["file", "under a file", "loop", "link to nothing", "long", "pipe"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_none(place: Path, tmp_path: Path, kind: str, resume: bool) -> None:
    (tmp_path / "file").write_text("mine")
    out = {"file": tmp_path / "file", "under a file": tmp_path / "file" / "out"}.get(kind, tmp_path / "out")
    if kind == "loop":
        out.symlink_to(out)
    elif kind == "link to nothing":
        out.symlink_to(tmp_path / "nothing")
    elif kind == "long":
        out = tmp_path / ("x" * 300)
    elif kind == "pipe":
        os.mkfifo(out)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        StateError, match=r"is a file|is a link whose target does not exist|cannot be (written|read)|no run to resume"
    ):
        run(settings(place), recipe(), out, resume=resume)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_bad_input_leaves_no_folder(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run(settings(place, eval=str(tmp_path / "none.tsv")), None, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("freeze", [("*",), ("embeddings", "bert.*", "classifier")])
def test_a_model_that_is_frozen_as_a_whole_is_refused(place: Path, tmp_path: Path, freeze: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="--freeze .*: nothing in the model would be left to train"):
        run(settings(place, freeze=freeze), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "größer"), ("ascii", r"gr\xf6\xdfer")])
def test_labels_that_a_terminal_cannot_show_end_no_training(
    place: Path, tmp_path: Path, encoding: str, shown: str
) -> None:
    """Markup, escape sequences, letters that it does not know; the folder has an odd name, too."""
    names = ("[/red]größer", "\x1b[31m[bold]\x07")
    lines = [f"{json.dumps({'label': names[label], 'text': text})}\n" for label, text in tiny.rows(40, seed=3)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines))
    out = tmp_path / "[/red]"
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    asked = settings(place, train=str(path), eval=str(path), epochs=1)
    report = run(asked, recipe(), out, console=Console(file=terminal, width=200, force_terminal=True))
    assert sorted(report["training"]["data"]["labels"]) == sorted(names)
    terminal.flush()
    text = terminal.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert rf"2 labels: \x1b[31m[bold]\x07, [/red]{shown}" in text
    assert "\x1b[31m[bold]" not in text


def test_a_reader_that_has_gone_ends_no_training(place: Path, tmp_path: Path) -> None:
    """`sparsify train … | head -1`: the rest is trained, and written."""
    out = tmp_path / "out"
    command = words(place, out, "--eval-every", "2")
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        error = process.stderr.read().decode()
    assert process.returncode == 0, error
    assert (out / "report.json").is_file()


def test_what_a_kill_has_left_does_not_stand_in_the_way(place: Path, tmp_path: Path) -> None:
    """Killed while it wrote its first file: the folder holds a lock that nobody has, and half a file."""
    out = tmp_path / "out"
    out.mkdir()
    for name in (".sparsify.lock", ".run.json.abcd.part"):
        (out / name).write_text("")
    run(settings(place, epochs=1), None, out)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
