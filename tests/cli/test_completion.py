"""Shell completion, through the protocol that the shells speak; and which files count as recipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsify.cli.app import app
from sparsify.cli.completing import recipes, words
from tests.commands import ENVIRONMENT

RECIPE = "version: 1\nmodifiers:\n  - {type: prune, sparsity: 0.5}\n"
STRAY = {
    "compose.yml": 'version: "3"\nservices: {}\n',
    "pipeline.yaml": "stages:\n  - stage: build\n",
    "lint.yaml": "extends: default\nrules: {}\n",
    "broken.yaml": "a: [b\n",
    "list.yaml": "- 1\n",
    "notes.md": "# Notes\n\nNothing here.\n",
}
MEANT = {
    "mine.yaml": RECIPE,
    "typo.yaml": RECIPE.replace("prune", "prun"),
    "child.yaml": "version: 1\nextends: nobody\n",
    "flow.yml": '{"version": 2, "modifiers": []}\n',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {**STRAY, **MEANT}.items():
        Path(name).write_text(text)
    Path("sub").mkdir()
    Path("sub/deep.yaml").write_text(RECIPE)
    Path("pipe.yaml").unlink(missing_ok=True)
    os.mkfifo("pipe.yaml")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_list_has_recipes_alone() -> None:
    done = CliRunner().invoke(app, ["recipes", "list", "--json"])
    assert done.exit_code == 0, done.output
    mine = {row["name"]: row["summary"] for row in json.loads(done.stdout) if row["from"] == "working folder"}
    assert set(mine) == {"mine", "typo", "child", "flow"}
    assert mine["typo"] == mine["child"] == mine["flow"] == "not valid: see `sparsify validate`"


def test_the_list_passes_over_other_files_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in STRAY.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("SPARSIFY_RECIPES", str(tmp_path))
    rows = json.loads(CliRunner().invoke(app, ["recipes", "list", "--json"]).stdout)
    assert {row["from"] for row in rows} <= {"built in", "working folder"}


@pytest.mark.usefixtures("folder")
def test_recipes_are_completed_by_name_and_by_path() -> None:
    assert recipes("gmp")[:2] == ["gmp", "gmp-distilled"]
    assert set(recipes("")) >= {"mine", "mine.yaml", "typo", "sub/", "gmp"}
    assert not {name for name in recipes("") if name.partition(".")[0] in ("compose", "lint", "notes", "pipe", "list")}
    assert recipes("sub/") == ["sub/deep.yaml"]
    assert recipes("nowhere/") == []


def test_words_are_completed_after_commas_too() -> None:
    complete = words("torch", "torch-compile", "onnxruntime")
    assert complete("to") == ["torch", "torch-compile"]
    assert complete("torch,on") == ["torch,onnxruntime"]


def completed(line: str, shell: str = "bash") -> list[str]:
    """Return what the shell would offer for the last word of a line."""
    words = line.split(" ")
    environment = {"_SPARSIFY_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    environment |= {"_TYPER_COMPLETE_ARGS": line}
    code = "from sparsify.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**ENVIRONMENT, **environment}
    )
    assert done.stderr == ""
    return done.stdout.split("\n")


def test_the_protocol_of_the_shells() -> None:
    assert completed("sparsify comp") == ["compact"]
    assert set(completed("sparsify train --task text-")) == {"text-classification", "text-regression"}
    assert '"gmp-global"' in " ".join(completed("sparsify plan gmp", "zsh"))


def test_the_completion_can_be_shown_and_installed() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert "--install-completion" in text
    assert "--show-completion" in text
