"""`torchrun … -m sparsify train`: several processes are one run; a launcher that names no group is refused."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparsify.cli import main
from sparsify.errors import StateError, TrainingError
from sparsify.integrations.common.checkpoints import MARKER
from sparsify.train import processes
from sparsify.train.processes import joined
from sparsify.train.run import run
from tests.commands import ENVIRONMENT, contents, words
from tests.crash import COMPOUND
from tests.processes import ROOT
from tests.train.test_train import recipe, same, settings, weights

pytestmark = pytest.mark.usefixtures("quiet_libraries")

SEVERAL = [
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
    {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
    {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"WORLD_SIZE": "2"},
    {"RANK": "1"},
    {"LOCAL_RANK": "0"},
    {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
    {"PMI_SIZE": "2"},
    {"WORLD_SIZE": "two"},
]


@pytest.mark.parametrize("environment", SEVERAL, ids=str)
def test_processes_that_cannot_join_are_refused_before_anything_is_written(
    place: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"nothing says how they find each other|is no number of processes"):
        run(settings(place), recipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"LOCAL_RANK": "-1"},
        {"RANK": ""},
    ],
    ids=str,
)
def test_one_process_is_one(environment: Mapping[str, str]) -> None:
    with joined(environment) as several:
        assert several == 1


class _Ended(BaseException):
    """In the place of the process's end."""


def test_a_process_of_a_group_ends_without_the_teardown(monkeypatch: pytest.MonkeyPatch) -> None:
    """After what is registered for the end, with the command's exit code; one that was alone ends as usual."""
    done: list[Any] = []

    def end(code: int) -> None:
        done.append(code)
        raise _Ended

    def command(**_: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(processes, "_gloo", [])
    monkeypatch.setattr("sparsify.cli.app.app", command)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: done.append("registered"))
    with pytest.raises(SystemExit):
        main()
    assert done == []
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    with joined(group) as several:
        assert several == 1
    thread = threading.Timer(0.1, lambda: done.append("thread"))
    thread.start()
    with pytest.raises(_Ended):
        main()
    assert done == ["thread", "registered", 3]


# ---------------------------------------------------------------------- two of them

OPTIONS = ("--epochs", "2", "--batch-size", "4", "--save-every", "5", "--eval-every", "10", "--keep-checkpoints")


@pytest.fixture(scope="module")
def calm(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and data, without dropout: its noise would be another in each process."""
    copy = tmp_path_factory.mktemp("calm") / "place"
    shutil.copytree(place, copy)
    config = copy / "model" / "config.json"
    values = json.loads(config.read_text())
    values |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(values))
    return copy


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
IMPORTS = "sparsify.cli.app,sparsify.train.tasks,sparsify.train.run,transformers.trainer,transformers.models.bert"
FORKED = [sys.executable, "-m", "tests.two", IMPORTS]
"""Two processes that import once; all but what they are launched by is as under torchrun."""


def launched(place: Path, out: Path, *options: str, launcher: Sequence[str] = FORKED) -> list[str]:
    """Return the command of a run in two processes."""
    command = words(place, out, *OPTIONS, *options)
    return [*launcher, "sparsify", *command[command.index("train") :]]


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=300)


def broken_off(command: list[str], out: Path, checkpoint: str, number: int) -> str:
    """Send a signal to the launcher (SIGKILL: to all of its processes) after a checkpoint; return what was said."""
    with subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 200
        while not (out / "checkpoints" / checkpoint / MARKER).exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        if number == signal.SIGKILL:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), number)
        process.send_signal(number)
        assert process.stderr is not None
        return process.stderr.read()


@pytest.fixture(scope="module")
def whole(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing has disturbed."""
    out = tmp_path_factory.mktemp("two") / "out"
    done = finished(launched(calm, out, launcher=[*TORCHRUN, "2", "-m"]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1
    return out


def test_two_processes_train_as_one_does_on_batches_twice_as_large(calm: Path, tmp_path: Path, whole: Path) -> None:
    """The same rows in every optimizer step: what differs is rounding (and dropout, which this model lacks)."""
    report = json.loads((whole / "report.json").read_text())
    assert report["training"]["settings"]["processes"] == 2
    alone = run(settings(calm, batch_size=8, eval_every=10), recipe(), tmp_path / "one")
    assert report["training"]["steps"] == alone["training"]["steps"]
    assert report["density"]["targeted"]["sparsity"] == alone["density"]["targeted"]["sparsity"] == 0.75
    losses = [[e["loss"] for e in each["history"] if "loss" in e] for each in (report, alone)]
    assert losses[0][:3] == pytest.approx(losses[1][:3], rel=1e-3)
    one, other = weights(whole), weights(tmp_path / "one")
    assert all(float((one[name] - other[name]).abs().mean()) < 0.05 for name in one)


def test_killed_processes_go_on_as_if_nothing_had_happened(calm: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out"
    broken_off(launched(calm, out), out, "checkpoint-10", signal.SIGKILL)
    assert not (out / "report.json").exists()
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)
    done = finished(launched(calm, out, "--resume"))
    assert done.returncode == 0, done.stderr
    same(whole, out)

    # One process alone goes on with as many rows in a step; with fewer it is told what to give.
    fewer = settings(calm, batch_size=4, save_every=5, eval_every=10, keep_checkpoints=True)
    with pytest.raises(
        StateError, match=r"rows in an optimizer step \(--batch-size × --accumulate × processes\): 8 then, 4"
    ):
        run(fewer, recipe(), kept, resume=True)
    asked = settings(calm, batch_size=4, accumulate=2, save_every=5, eval_every=10, keep_checkpoints=True)
    report = run(asked, recipe(), kept, resume=True)
    assert report["training"]["steps"] == json.loads((whole / "report.json").read_text())["training"]["steps"]
    one, other = weights(whole), weights(kept)
    assert all(float((one[name] - other[name]).abs().mean()) < 0.05 for name in one)


@pytest.mark.slow
def test_a_wish_to_stop_reaches_all_processes(calm: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out"
    said = broken_off(launched(calm, out), out, "checkpoint-5", signal.SIGTERM)
    assert said.count("everything is saved") == 1
    done = finished(launched(calm, out, "--resume"))
    assert done.returncode == 0, done.stderr
    same(whole, out)


def test_an_error_is_said_once_and_nothing_is_written(calm: Path, tmp_path: Path, whole: Path) -> None:
    before = contents(whole)
    done = finished(launched(calm, whole))
    assert done.returncode != 0
    assert done.stderr.count("holds a run already") == 1
    assert contents(whole) == before
    done = finished([*launched(calm, tmp_path / "out"), "--train", str(tmp_path / "missing.tsv")])
    assert done.stderr.count("missing.tsv") <= 2  # once by us, once by a launcher that lists what it started
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_one_process_under_a_launcher(calm: Path, tmp_path: Path) -> None:
    done = finished(launched(calm, tmp_path / "out", launcher=[*TORCHRUN, "1", "-m"]))
    assert done.returncode == 0, done.stderr
    run(
        settings(calm, batch_size=4, eval_every=10, save_every=5),
        recipe(),
        tmp_path / "alone",
        console=Console(quiet=True),
    )
    same(tmp_path / "alone", tmp_path / "out")


@pytest.mark.slow
def test_a_compound_recipe_killed_in_two_processes(calm: Path, tmp_path: Path) -> None:
    """A dropped layer, a teacher with projections and a cache, learned masks, two stages: the same bits."""
    run(settings(calm), None, calm / "teacher")
    (calm / "recipe.yaml").write_text(COMPOUND)
    options = ("--teacher", str(calm / "teacher"))
    done = finished(launched(calm, tmp_path / "whole", *options))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    for checkpoint in ("checkpoint-5", "checkpoint-15"):
        broken_off(
            launched(calm, out, *options, *(["--resume"] if out.exists() else [])), out, checkpoint, signal.SIGKILL
        )
    done = finished(launched(calm, out, *options, "--resume"))
    assert done.returncode == 0, done.stderr
    same(tmp_path / "whole", out)
