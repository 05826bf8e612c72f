"""The wheel in an empty environment: alone with the core, and with the two commands of a user."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
NETWORK = "SPARSIFY_NETWORK"
"""Set it to 1 to have dependencies come from the network, as a user has them (gigabytes)."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (found,) = folder.glob("sparsify_torch-*.whl")
    return found


class Empty:
    """A virtual environment with nothing but pip, and what it is lent."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.folder = folder
        self.lent = folder / "lent"
        self.lent.mkdir()

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment, and see that it succeeds."""
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        variables["PYTHONPATH"] = str(self.lent)  # before its own: ensurepip may bring an old setuptools
        variables |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        command = [str(self.folder / "bin" / words[0]), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=cwd)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    def lend(self, *requirements: str) -> None:
        """Let it see what these need, and what those need in turn, out of this environment; nothing else."""
        for name in closure(requirements):
            files = distribution(name).files or []
            for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                source = Path(str(distribution(name).locate_file(top)))
                if not (self.lent / top).exists():
                    (self.lent / top).symlink_to(source)


def closure(requirements: tuple[str, ...]) -> set[str]:
    """Return the names of all distributions that requirements ask for, their extras and markers minded."""
    found: set[str] = set()
    asked: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            if (requirement.name, extra) in asked:
                continue
            asked.add((requirement.name, extra))
            found.add(requirement.name)
            inner = map(Requirement, distribution(requirement.name).requires or [])
            waiting += [each for each in inner if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found


def declared(wheel: Path, extra: str = "") -> tuple[str, ...]:
    """Return what a wheel's own metadata asks for, with an extra of its own and those within it."""
    from importlib.metadata import PathDistribution
    from zipfile import Path as Inside

    (info,) = (each for each in Inside(wheel).iterdir() if each.name.endswith(".dist-info"))
    found: list[str] = []
    for text in PathDistribution(info).requires or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "sparsify-torch":
            found += [each for inner in sorted(requirement.extras) for each in declared(wheel, inner)]
        else:
            requirement.marker = None
            found.append(str(requirement))
    return tuple(found)


def test_it_works_with_the_core_alone(wheel: Path, tmp_path: Path) -> None:
    empty = Empty(tmp_path / "empty")
    empty.lend(*declared(wheel))
    empty.run("pip", "install", "--quiet", "--no-index", str(wheel), cwd=tmp_path)
    code = """
import shutil, sys
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
import sparsify, sparsify.integrations.plain.loop
from sparsify import Recipe, break_even, engine
assert "empty" in sparsify.__file__, sparsify.__file__
assert not [name for name in ("transformers", "typer", "matplotlib", "pytest") if find_spec(name)]
assert Recipe.load("demo").name == "demo"
assert (files("sparsify.schemas") / "recipe.v1.json").read_text().startswith("{")
assert any(e.name == "sparsify" for e in entry_points(group="console_scripts"))
assert "py.typed" in [p.name for p in files("sparsify").iterdir()]
assert engine.missing() is None or not shutil.which("c++"), engine.missing()
assert break_even.sentence()
sparsify.integrations.plain.loop.main()
"""
    assert "90.0%" in empty.run("python", "-c", code, cwd=tmp_path).stdout


def test_the_two_commands_of_a_user(wheel: Path, tmp_path: Path) -> None:
    """`pip install WHEEL[demo]` and `sparsify demo`, where nothing can be imported that the wheel does not ask for."""
    empty = Empty(tmp_path / "empty")
    empty.lend(*declared(wheel, "demo"))
    empty.run("pip", "install", "--quiet", "--no-index", f"{wheel}[demo]", cwd=tmp_path)
    has_shown_its_work(empty, tmp_path, epochs=1)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get(NETWORK) != "1", reason=f"needs a network, and gigabytes of it: {NETWORK}=1")
def test_the_two_commands_of_a_user_with_a_network(wheel: Path, tmp_path: Path) -> None:
    empty = Empty(tmp_path / "empty")
    empty.run("pip", "install", "--quiet", f"{wheel}[demo]", cwd=tmp_path)
    has_shown_its_work(empty, tmp_path, epochs=40)


def has_shown_its_work(empty: Empty, folder: Path, *, epochs: int) -> None:
    """Run the demo, and see that it has written everything."""
    shown = empty.run("sparsify", "demo", "--epochs", str(epochs), cwd=folder).stdout
    assert "dense | sparse | compact" in shown
    assert "90.0% zero" in shown
    names = {path.name for path in (folder / "runs" / "demo").iterdir()}
    assert {"dense", "sparse", "compact", "report.json", "picture.png", "index.html", "sparse.packed"} <= names
