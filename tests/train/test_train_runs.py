"""`sparsify train` and its folder: one run at a time, with its own checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparsify import Recipe
from sparsify.errors import StateError, TrainingError
from sparsify.integrations.common.checkpoints import MARKER, checkpoints, marker
from sparsify.lock import FILE, FolderLock
from sparsify.train.run import run
from tests.commands import ENVIRONMENT, contents, words
from tests.train.test_train import interrupted, recipe, same, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")


# ---------------------------------------------------------------------- one at a time


def test_a_second_run_in_the_folder_ends_at_once(place: Path, tmp_path: Path) -> None:
    """Whatever it was asked to do. `kill -9` leaves no lock behind, and the run can go on."""
    out = tmp_path / "out"
    asked = settings(place, epochs=8, save_every=5, eval_every=1000)
    options = ("--epochs", "8", "--save-every", "5", "--eval-every", "1000")
    first = subprocess.Popen(words(place, out, *options), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list((out / "checkpoints").glob(f"checkpoint-*/{MARKER}")) and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        before = contents(out)
        for flags in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(
                TrainingError, match=rf"out: another run writes .*\(process {first.pid} on .* choose another --out"
            ):
                run(asked, Recipe.load(place / "recipe.yaml"), out, **flags)
        with pytest.raises(StateError, match="holds a run already"):
            run(asked, recipe(), out)
        assert contents(out) == before
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (out / FILE).exists()
    names = {marker(folder).run for folder in checkpoints(out / "checkpoints") if (folder / MARKER).exists()}
    assert names == {json.loads((out / "run.json").read_text())["run"]}
    assert run(asked, recipe(), out, resume=True)["training"]["steps"] == 96
    assert not (out / FILE).exists()


def test_two_runs_that_begin_together(place: Path, tmp_path: Path) -> None:
    """One of them trains; the other says so, and leaves nothing."""
    both = [
        subprocess.Popen(words(place, tmp_path / "out"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    loser = next(error for process, error in zip(both, errors, strict=True) if process.returncode)
    assert "another run writes into this folder" in loser or "holds a run already" in loser
    run(settings(place), recipe(), tmp_path / "alone")
    same(tmp_path / "alone", tmp_path / "out")


def test_a_folder_that_was_filled_while_we_waited_for_the_lock(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run came to its end between our look at the folder and our lock: it is not cleared away."""
    from sparsify.train import run as module

    out = tmp_path / "out"
    before = module.only_run_in

    def late(*arguments: Any) -> Any:
        out.mkdir()
        (out / "run.json").write_text("{}")
        return before(*arguments)

    monkeypatch.setattr(module, "only_run_in", late)
    with pytest.raises(StateError, match="holds a run already"):
        run(settings(place), recipe(), out)
    assert (out / "run.json").read_text() == "{}"


def test_a_file_system_without_locks_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FolderLock, "_take", lambda self: False)
    run(settings(place, epochs=1), None, tmp_path / "out", console=Console(width=200))
    assert "this file system has no locks; do not start a second run there" in capsys.readouterr().out


# ---------------------------------------------------------------------- whose checkpoints these are


def test_a_checkpoint_of_another_run_is_not_gone_on_from(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted(place, out, 9, monkeypatch)
    interrupted(place, tmp_path / "other", 14, monkeypatch)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "checkpoint-14", out / "checkpoints" / "checkpoint-14")
    before = contents(out)
    with pytest.raises(StateError, match=r"checkpoints of another run \(checkpoint-14\): remove them, or choose"):
        run(settings(place), recipe(), out, resume=True)
    assert contents(out) == before
    shutil.rmtree(out / "checkpoints" / "checkpoint-14")
    run(settings(place), recipe(), out, resume=True)
    run(settings(place), recipe(), tmp_path / "whole")
    same(tmp_path / "whole", out)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_checkpoint_of_another_run_is_not_deleted(
    place: Path, tmp_path: Path, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes into the folder while the run goes on."""
    from sparsify.train.keeper import Keeper

    interrupted(place, tmp_path / "other", 3, monkeypatch)
    stranger = tmp_path / "other" / "checkpoints" / "checkpoint-3"
    before = Keeper.on_step_end

    def meddle(self: Keeper, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == 14:
            shutil.copytree(stranger, Path(args.output_dir) / stranger.name)
        return before(self, args, state, control, **more)

    monkeypatch.setattr(Keeper, "on_step_end", meddle)
    with pytest.raises(StateError, match=r"checkpoints of another run \(checkpoint-3\)"):
        run(settings(place, save_every=4), recipe() if sparse else None, tmp_path / "out")
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-3" / MARKER).is_file()


def test_a_dense_run_picks_no_checkpoint_of_another(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsify.train.keeper import Keeper

    before = Keeper.on_train_end

    def meddle(self: Keeper, args: Any, state: Any, control: Any, **more: Any) -> None:
        path = Path(state.best_model_checkpoint) / MARKER
        path.write_text(json.dumps({**json.loads(path.read_text()), "run": "another"}))
        before(self, args, state, control, **more)

    monkeypatch.setattr(Keeper, "on_train_end", meddle)
    with pytest.raises(StateError, match="the best checkpoint, is of another run"):
        run(settings(place, best=True), None, tmp_path / "out")


def test_a_run_that_was_moved_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"best": True, "eval_every": 2, "epochs": 3}
    interrupted(place, tmp_path / "here", 27, monkeypatch, **options)
    (tmp_path / "here").rename(tmp_path / "there")
    report = run(settings(place, **options), recipe(), tmp_path / "there", resume=True)
    whole = run(settings(place, **options), recipe(), tmp_path / "whole")
    assert report["training"]["picked_step"] == whole["training"]["picked_step"]
    same(tmp_path / "whole", tmp_path / "there")


RECORDS = {
    "no object": "[1]",
    "a number": "3",
    "no name": '{"settings": {}, "recipe": null, "data": {}}',
    "a name of a wrong type": '{"run": 3, "settings": {}, "recipe": null, "data": {}}',
    "settings of a wrong type": '{"run": "x", "settings": [["a", 1]], "recipe": null, "data": {}}',
    "a recipe of a wrong type": '{"run": "x", "settings": {}, "recipe": "gmp", "data": {}}',
    "data of a wrong type": '{"run": "x", "settings": {}, "recipe": null, "data": 7}',
    "brackets": "[" * 100_000,
    "not JSON": "{",
    "not text": b"\xff\xfe",
    "other settings": '{"run": "x", "settings": {"lr": {"a": []}}, "recipe": {"sha256": []}, "data": {}}',
}


@pytest.mark.parametrize("kind", [*RECORDS, "pipe", "folder"])
def test_a_record_that_is_none_is_one_error(place: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if kind == "pipe":
        os.mkfifo(out / "run.json")
    elif kind == "folder":
        (out / "run.json").mkdir()
    else:
        text = RECORDS[kind]
        (out / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StateError, match=r"run\.json (cannot be read|is not a record)|started with other settings"):
        run(settings(place), recipe(), out, resume=True)
    assert [path.name for path in out.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"run": "x", "files": 3}', '{"run":', "pipe"])
def test_a_marker_that_is_none_is_one_error(
    place: Path, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted(place, out, 14, monkeypatch)
    path = out / "checkpoints" / "checkpoint-14" / MARKER
    path.unlink()
    os.mkfifo(path) if text == "pipe" else path.write_text(text)
    with pytest.raises(StateError, match=r"checkpoint-14.*remove that folder to go on from .*checkpoint-12"):
        run(settings(place), recipe(), out, resume=True)
