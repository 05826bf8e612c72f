"""The command line as a user meets it: output, exit codes, errors on stderr and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparsify import Recipe, __version__
from sparsify.cli.app import app
from sparsify.cli.common import with_flags
from sparsify.recipe.schema import schema_text

GOOD = 'version: 1\nname: mine\nvariables: {s: 0.5}\nmodifiers:\n  - {type: prune, targets: "bert.encoder", sparsity: "${s}"}\n'
BAD = 'version: 1\nmodifiers:\n  - {type: prune, targts: "*", sparsity: 2}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a good recipe, a bad one, and a small BERT's configuration."""
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("bad.yaml").write_text(BAD)
    Path("bert").mkdir()
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 99,
    }
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], **sizes}
    Path("bert/config.json").write_text(json.dumps(config))
    return tmp_path


def run(*arguments: str) -> Result:
    """Run a command; stdout and stderr apart."""
    result = CliRunner().invoke(app, list(arguments))
    assert "Traceback" not in result.stderr
    return result


def test_version_and_help() -> None:
    assert run("--version").stdout == f"sparsify {__version__}\n"
    for command in ("validate", "plan", "recipes", "schema", "demo"):
        assert command in run("--help").stdout
        assert run(command, "--help").exit_code == 0


@pytest.mark.usefixtures("folder")
def test_validate() -> None:
    result = run("validate", "good.yaml", "demo")
    assert result.exit_code == 0
    sha = Recipe.load("good.yaml").sha256[:12]
    assert result.stdout.splitlines()[0] == f"good.yaml: valid, 1 modifier, sha256 {sha}"
    result = run("validate", "good.yaml", "bad.yaml", "none.yaml")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "bad.yaml:3:19: modifiers[0].targts: unknown key 'targts' (did you mean 'targets'?)",
        "bad.yaml:3:32: modifiers[0].sparsity: a sparsity is a fraction from 0 to 1, got 2 (did you mean 0.02?)",
        "none.yaml: no such file (did you mean 'good.yaml'?)",
    ]


@pytest.mark.usefixtures("folder")
def test_validate_for_programs() -> None:
    result = run("validate", "--json", "good.yaml", "bad.yaml")
    assert result.exit_code == 1
    good, bad = json.loads(result.stdout)
    assert good["valid"] is True
    assert good["sha256"] == Recipe.load("good.yaml").sha256
    first = bad["problems"][0]
    assert (first["file"], first["line"], first["column"], first["path"]) == ("bad.yaml", 3, 19, "modifiers[0].targts")


@pytest.mark.usefixtures("folder")
def test_variables_can_be_set() -> None:
    result = run("validate", "good.yaml", "--set", "s=0.25", "--json")
    assert json.loads(result.stdout)[0]["sha256"] == Recipe.load("good.yaml", s=0.25).sha256
    result = run("validate", "good.yaml", "--set", "t=1")
    assert result.exit_code == 1
    assert "unknown variable 't' (one of: s)" in result.stderr
    result = run("validate", "good.yaml", "--set", "s")
    assert result.exit_code == 2
    assert "expected name=value, got 's'" in result.stderr


@pytest.mark.usefixtures("folder")
def test_plan() -> None:
    result = run("plan", "good.yaml", "--model", "bert", "--steps", "100")
    assert result.exit_code == 0, result.stderr
    assert "bert.encoder.layer.1.attention.self.query.weight" not in result.stdout
    row = next(line for line in result.stdout.splitlines() if "attention.query" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "attention.query",
        "0-1",
        "2",
        "32×32",
        "50.00%",
        "1,024",
    ]
    result = run("plan", "good.yaml", "--model", "bert", "--steps", "100", "--tensors")
    assert "bert.encoder.layer.1.attention.self.query.weight" in result.stdout
    result = run(
        "plan", "good.yaml", "--model", "bert", "--steps-per-epoch", "50", "--epochs", "3", "--set", "s=0.9", "--json"
    )
    plan = json.loads(result.stdout)
    assert plan["total_steps"] == 150
    assert plan["modifiers"][0]["expected_nonzeros"] == 8 * (1024 - 922) + 4 * (2048 - 1843)
    assert len(plan["modifiers"][0]["tensors"]) == 12


@pytest.mark.usefixtures("folder")
def test_plan_for_a_task() -> None:
    """A base checkpoint gets the head that train gives it; without a task the error says why names differ."""
    config = json.loads(Path("bert/config.json").read_text())
    Path("bert/config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    words = ("plan", "good.yaml", "--model", "bert", "--steps", "100")
    result = run(*words, "--task", "text-classification", "--labels", "3", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["model"]["type"] == "BertForSequenceClassification"
    assert plan["modifiers"][0]["tensors"][0]["name"] == "bert.encoder.layer.0.attention.self.query.weight"
    assert plan["notes"][0] == "new, with random weights: classifier.bias, classifier.weight"
    assert "note: the head has 2 labels" in run(*words, "--task", "text-classification").stdout
    result = run(*words)
    assert result.exit_code == 1
    assert (
        "BertModel has no head: --task says which one train adds, and its modules are then called bert.…"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "good.yaml", "--model", "bert"], 1, "the window has no end, and --steps is not known"),
        (["plan", "good.yaml", "--model", "bert", "--epochs", "3"], 1, "--steps-per-epoch is needed with epochs"),
        (["plan", "good.yaml", "--model", "brt", "--steps", "9"], 1, "brt: its configuration cannot be loaded"),
        (["plan", "good.yaml", "--model", "./brt", "--steps", "9"], 1, "./brt: no such folder (did you mean 'bert'?)"),
        (["plan", "good.yaml", "--model", "good.yaml", "--steps", "9"], 1, "good.yaml is a file; give the folder"),
        (["plan", "good.yaml", "--model", ".", "--steps", "9"], 1, ".: the folder holds no config.json"),
        (["plan", "bad.yaml", "--model", "bert", "--steps", "9"], 1, "bad.yaml:3:19: modifiers[0].targts: unknown key"),
        (["plan", "goood", "--model", "bert", "--steps", "9"], 1, "no recipe is called 'goood' (did you mean 'good'?)"),
        (["plan", "good.yaml", "--model", "bert", "--task", "text-clasification"], 2, "did you mean 'text-class"),
        (["plan", "good.yaml", "--model", "bert", "--labels", "3"], 2, "it goes with --task text-classification"),
        (["plan", "good.yaml", "--model", "bert", "--task", "causal-lm", "--labels", "3"], 2, "it goes with --task"),
        (["plan", "good.yaml", "--steps", "9"], 2, "Missing option '--model'"),
        (["plan", "good.yaml", "--model", "bert", "--steps", "none"], 2, "Invalid value for '--steps'"),
        (["plan", "good.yaml", "--model", "bert", "--steps", "0"], 2, "Invalid value for '--steps'"),
        (["pln"], 2, "No such command 'pln'"),
        (["validate"], 2, "Missing argument"),
        (["recipes", "show", "dmo"], 1, "no recipe is called 'dmo' (did you mean 'demo'?)"),
        (["schema", "--check", "none.json"], 1, "none.json is stale"),
        (["demo", "--epochs", "0"], 2, "Invalid value for '--epochs'"),
        (["demo", "--recipe", "bad.yaml"], 1, "bad.yaml:3:19"),
        (["demo", "--set", "sparsity=2"], 1, "variable 'sparsity': must be at most 0.99, got 2"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_input(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


@pytest.mark.usefixtures("folder")
def test_recipes_list_and_show() -> None:
    result = run("recipes", "list", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["demo"]["from"] == "built in"
    assert rows["good"]["from"] == "working folder"
    assert "90 % gradual magnitude" in run("recipes", "list").stdout
    assert run("recipes", "show", "good").stdout == GOOD
    assert Recipe.parse(run("recipes", "show", "good", "--set", "s=0.3").stdout) == Recipe.load("good", s=0.3)
    resolved = run("recipes", "show", "good", "--resolved").stdout
    assert "${" not in resolved
    assert Recipe.parse(resolved).sha256 == Recipe.load("good").sha256


def test_other_yaml_files_of_the_working_folder_are_passed_over(folder: Path) -> None:
    (folder / "compose.yaml").write_text("services: {db: {image: postgres}}\n")
    names = [row["name"] for row in json.loads(run("recipes", "list", "--json").stdout)]
    assert "compose" not in names
    assert "bad" in names


def test_schema(folder: Path) -> None:
    assert run("schema").stdout == schema_text()
    assert run("schema", "--out", str(folder / "s.json")).exit_code == 0
    assert run("schema", "--check", str(folder / "s.json")).exit_code == 0


def test_the_installed_command(folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("sparsify")), "validate", "bad.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("bad.yaml:3:19: modifiers[0].targts")


def test_a_reader_that_has_seen_enough() -> None:
    command = f"{Path(sys.executable).with_name('sparsify')} schema | head -1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert result.stdout == "{\n"
    assert "Traceback" not in result.stderr


def test_without_the_extra_the_command_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no', name='typer')\n")
    code = "from sparsify.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr == "sparsify: the command line needs typer: pip install 'sparsify-torch[cli]'\n"


@pytest.mark.usefixtures("folder")
def test_plan_of_coupled_channels_takes_the_shape_of_inputs() -> None:
    Path("resnet").mkdir()
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], **sizes}
    Path("resnet/config.json").write_text(json.dumps(config))
    plan = ("plan", "channels-coupled", "--model", "resnet", "--steps", "1000")
    result = run(*plan, "--input-shape", "2,3,32,32", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["modifiers"][0]["tensors"]
    result = run(*plan, "--input-shape", "2,1,32,32")
    assert result.exit_code == 1
    assert "cannot be run on example_inputs" in result.stderr
    assert run(*plan, "--input-shape", "2,many").exit_code == 2


def test_training_with_transformers_4_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("datasets")  # what is not installed at all is said first
    monkeypatch.setattr("sparsify.cli.train.version", lambda name: "4.57.6")
    folder = str(tmp_path)
    found = run(
        "train", "--task", "causal-lm", "--model", folder, "--train", "a.txt", "--eval", "a.txt", "--out", folder
    )
    assert found.exit_code == 1
    assert "training needs transformers 5 or later, not 4.57.6" in " ".join(found.output.split())


def test_messages_name_flags_and_quote_what_was_written() -> None:
    assert with_flags("'2 epochs' needs steps_per_epoch") == "'2 epochs' needs --steps-per-epoch"
    assert with_flags("allow them with max_bytes") == "allow them with --max-bytes"
    for text in (
        "unknown key 'total_steps'",
        "Plan.of(recipe, model, total_steps=…)",
        "write `total_steps`",
        "my_total_steps",
    ):
        assert with_flags(text) == text
