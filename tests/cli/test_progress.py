"""Progress on stderr, `--quiet`, exit codes: what a command says beside its result."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from sparsify import progress
from sparsify.cli import progress as shown
from sparsify.cli.app import app
from sparsify.cli.common import EPILOG, EXIT_CODES
from sparsify.progress import Advance
from sparsify.storage import pack, unpack
from tests.commands import ENVIRONMENT, said

ROOT = Path(__file__).parents[2]


class Seen:
    """Keeps what is shown: (task, total, what was done of it)."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float | None, list[float]]] = []

    def __call__(self, what: str, total: float | None) -> AbstractContextManager[Advance]:
        done: list[float] = []
        self.tasks.append((what, total, done))
        return nullcontext(lambda amount=1, text="": done.append(amount))


def test_what_is_shown_adds_up_to_its_total(tmp_path: Path) -> None:
    save_file({"a": torch.randn(40, 30), "b": torch.randn(50)}, tmp_path / "a.safetensors")
    seen = Seen()
    with progress.shown_by(seen):
        pack(tmp_path / "a.safetensors", tmp_path / "a.packed")
        unpack(tmp_path / "a.packed", tmp_path / "b.safetensors")
        assert list(progress.each("x", [1, 2, 3], float)) == [1, 2, 3]
    packing, unpacking, plain = seen.tasks
    assert (packing[0], sum(packing[2])) == ("packing", 4 * (1200 + 50))
    assert packing[1] == (tmp_path / "a.safetensors").stat().st_size
    assert (unpacking[0], unpacking[1], sum(unpacking[2])) == ("unpacking", 5000, 5000)
    assert plain == ("x", 6.0, [1.0, 2.0, 3.0])
    before = len(seen.tasks)
    list(progress.each("nobody looks", [1]))
    assert len(seen.tasks) == before


def test_lines_are_rare_and_say_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    lines = shown.Lines()
    with lines("packing\x1b", 100) as advance:
        for _ in range(50):
            now[0] += 2
            advance(1, "tensor")
    with lines("writing", None):
        pass
    now[0] += 40
    with lines("checking", None):
        pass
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == [
        r"packing\x1b: 15%, 30 s gone, about 3 min left; tensor",
        r"packing\x1b: 30%, 60 s gone, about 2 min left; tensor",
        r"packing\x1b: 45%, 90 s gone, about 2 min left; tensor",
        "checking …",
    ]
    assert progress.told(0, 10, 5) == "5 s gone"
    assert progress.told(1, None, 7200) == "2.0 h gone"


def test_bars_are_gone_after_an_error() -> None:
    bars = shown.Bars()

    def work() -> None:
        with bars("a\nb", 10) as advance:
            advance(5, "half")
            assert bars.progress.tasks[0].completed == 5
            assert bars.progress.tasks[0].description == r"a\nb"
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        work()
    assert bars.progress.tasks == []
    assert not bars.progress.live.is_started


def test_quiet_leaves_results_and_errors(place: Path, tmp_path: Path) -> None:
    loud = said(place, tmp_path / "loud", "--epochs", "1")
    quiet = said(place, tmp_path / "quiet", "--epochs", "1", "--quiet")
    assert loud.exit_code == quiet.exit_code == 0, loud.output + quiet.output
    assert "rows to train on" in loud.stdout
    assert re.search(r"step +\d+, epoch", loud.stdout)
    assert "Next: sparsify report" in loud.stdout
    lines = quiet.stdout.splitlines()
    assert lines[0].startswith("accuracy ")
    assert "of the targeted weights" in lines[1]
    assert "step " not in quiet.stdout
    assert "Next" not in quiet.stdout
    assert quiet.stderr == ""
    wrong = CliRunner().invoke(app, ["plan", "-q", "demo", "--model", str(tmp_path / "none"), "--steps", "9"])
    assert wrong.exit_code == 1
    assert "no such folder" in wrong.stderr
    again = CliRunner().invoke(app, ["report", str(tmp_path / "quiet")])
    assert "of the targeted weights" not in again.stderr
    assert again.exit_code == 0


def commands() -> list[list[str]]:
    group = typer.main.get_command(app)
    return [[name] for name in group.commands if name != "recipes"] + [["recipes", "list"], ["recipes", "show"]]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_is_quiet_if_asked_and_says_its_exit_codes(command: list[str]) -> None:
    text = " ".join(CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "--quiet" in text
    assert EPILOG in text


def test_the_exit_codes_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (\d+) \| ([^|;]+?)(?:;[^|]*)? \|$", page, re.MULTILINE))
    assert {int(code): meaning for code, meaning in table.items()} == EXIT_CODES
    assert EPILOG in CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout


def test_ctrl_c_is_130_in_any_command(tmp_path: Path) -> None:
    code = (
        "import os, signal, sparsify.cli.app as a, sparsify.cli as cli, typer\n"
        "@a.app.command('wait')\n"
        "def wait() -> None:\n    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever runs the tests may ignore it
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "import sys; sys.argv = ['sparsify', 'wait']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert signal.SIGINT == 2
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
