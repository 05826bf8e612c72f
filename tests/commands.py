"""`sparsify train` as a command, on small data: what the tests of its folder share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from sparsify.cli.app import app

COMMAND = [sys.executable, "-c", "import sys; from sparsify.cli import main; sys.exit(main())", "train"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def words(place: Path, out: Path, *more: str) -> list[str]:
    """Return the command line of the run that `settings` describes."""
    return [
        *COMMAND, "--task", "text-classification", "--model", str(place / "model"), "--train", str(place / "train.tsv"),
        "--eval", str(place / "eval.tsv"), "--out", str(out), "--batch-size", "8", "--lr", "0.003", "--max-length", "16",
        "--recipe", str(place / "recipe.yaml"), "--epochs", "2", *more,
    ]  # fmt: skip


def call(place: Path, out: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, **environment}
    return subprocess.run(words(place, out, *more), capture_output=True, text=True, env=env)


def said(place: Path, out: Path, *more: str) -> Result:
    """Run the command in this process, which has imported everything: exit code, stdout and stderr."""
    command = words(place, out, *more)
    return CliRunner().invoke(app, command[command.index("train") :])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
