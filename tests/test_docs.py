"""Every code block of the README and the documentation is executed or validated."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsify import Recipe
from sparsify.anatomy import architecture
from sparsify.cli.app import app
from sparsify.criteria import Criterion
from sparsify.patterns import Pattern
from sparsify.schedules import Curve
from tests import tiny
from tests.serving.served import classifier

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*(LeafSpec|treespec).*:FutureWarning")  # Lightning's use of torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # what PEFT asks of models
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (Criterion, Curve, Pattern):  # what an example defines is gone after it
        monkeypatch.setattr(root, "_members", dict(root.members()))
    monkeypatch.setattr(architecture, "_known", {family.name: family for family in architecture.architectures()})
    if page.name == "serve.md":
        classifier(tmp_path / "runs" / "sparse")
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    for match in BLOCK.finditer(text):
        language, block = match.groups()
        if language == "python":
            exec(compile(block, f"{page.name}: {block[:40]!r}", "exec", dont_inherit=True), namespace)
        elif language == "yaml":
            Recipe.parse(block, page.name)
            saved = re.search(r"Save this as `([\w.]+)`[^`]*\Z", text[: match.start()])
            if saved:
                Path(saved[1]).write_text(block)
    if page.name == "README.md":
        assert "90.00% of the targeted weights are zero" in capsys.readouterr().out


def furnish(folder: Path) -> None:
    """Write the model and the data that the commands of the pages name."""
    tiny.text_model(folder / "path" / "or" / "name")
    tiny.tsv(folder / "train.tsv", 700, seed=1)
    tiny.tsv(folder / "dev.tsv", 40, seed=2)


def commands_of(name: str) -> list[list[str]]:
    """Return the commands of a page, in words."""
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    lines = [line for language, block in BLOCK.findall(text) if language == "bash" for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("sparsify ")]
    assert commands, name
    return commands


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands of the pages name."""
    folder = tmp_path_factory.mktemp("pages")
    furnish(folder)
    plan = ["plan", "gmp", "--model", str(folder / "path/or/name"), "--steps", "200", "--json"]
    for name, sparsity in (("before", "0.5"), ("after", "0.8")):
        done = CliRunner().invoke(app, [*plan, "--set", f"sparsity={sparsity}"])
        (folder / f"{name}.json").write_text(done.output)
    return folder


def test_the_commands_of_the_pages(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for name in ("train", "report", "storage", "export"):  # in this order: the later use what the first makes
        commands = commands_of(name)
        if name == "report":
            for copy in ("a", "b"):
                shutil.copytree("runs/sparse", f"runs/{copy}", dirs_exist_ok=True)
        for command in commands:
            if "40" in command:
                command[command.index("40")] = "2"  # epochs: enough to see that it runs
            done = CliRunner().invoke(app, command[1:])
            assert done.exit_code == 0, f"{' '.join(command)}\n{done.output}"


def test_the_quick_start_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    for command in commands_of("start/command-line"):
        done = CliRunner().invoke(app, command[1:])
        assert done.exit_code == 0, f"{' '.join(command)}\n{done.output}"
    assert Path("sparse.packed").stat().st_size < Path("runs/dense/model.safetensors").stat().st_size
    report = json.loads(Path("runs/sparse/report.json").read_text())
    assert round(report["density"]["targeted"]["sparsity"], 2) == 0.8


def test_commands_in_the_documentation_exist() -> None:
    commands = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    named = {
        word for page in PAGES for word in re.findall(r"^(?:\| `)?sparsify ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= commands


def test_the_ten_lines_are_ten_lines() -> None:
    block = next(b for language, b in BLOCK.findall((ROOT / "README.md").read_text()) if language == "python")
    body = block.partition("recipe = ")[2]
    assert len(body.splitlines()) <= 10


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
