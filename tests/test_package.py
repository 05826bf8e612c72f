"""The package from outside: light to import, silent, installable; plug-ins; integrations."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch

import sparsify
from sparsify import Manager, Plan, PlanError, Recipe, SparsifyError, spec
from sparsify.criteria import Criterion
from sparsify.recipe.schema import recipe_schema

ROOT = Path(__file__).parents[1]


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter."""
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True)


def test_importing_is_silent_light_and_opens_no_connection() -> None:
    code = """
import json, socket, sys
def refuse(*arguments, **options): raise AssertionError("a connection")
socket.socket.connect = refuse
socket.create_connection = refuse
import sparsify
first = set(sys.modules)
from sparsify import Manager, Plan, Recipe
print(json.dumps([sorted(first), sorted(sys.modules)]))
"""
    result = python(code, "-W", "error")
    assert result.stderr == ""
    first, second = (set(modules) for modules in json.loads(result.stdout))
    assert "torch" not in first, "`import sparsify` alone costs nothing"
    heavy = {"transformers", "typer", "rich", "matplotlib", "sklearn", "safetensors", "zstandard", "requests", "onnx"}
    assert not heavy & second


def test_every_public_name_is_there() -> None:
    for name in sparsify.__all__:
        assert getattr(sparsify, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Manger'"):
        _ = sparsify.Manger


def test_integrations_use_the_public_api_only() -> None:
    for path in (ROOT / "integrations").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            inside = [m for m in modules if m.startswith("sparsify.") and not m.startswith("sparsify.integrations")]
            assert not inside, f"{path} imports {inside}"


def test_the_plain_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    from sparsify.integrations.plain import loop

    loop.main()
    assert "90.0% of the targeted weights zero" in capsys.readouterr().out


def test_the_plain_loop_resumes_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsify.integrations.plain import loop

    def run(folder: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        points = torch.randn(128, 2)
        labels = (points.square().sum(1) < 1.2).long()
        batches = list(zip(points.split(16), labels.split(16), strict=True))
        sizes = (
            torch.nn.Linear(2, 16),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(16, 8),
            torch.nn.ReLU(),
            torch.nn.Linear(8, 2),
        )
        model = torch.nn.Sequential(*sizes)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        recipe = Recipe.parse(loop.RECIPE.replace("every: 5 steps", "every: 1"))

        def loss_of(model: Any, batch: Any) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

        loop.train(model, optimizer, batches, loss_of, recipe, folder, epochs=6, accumulate=2, save_every=5)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    step = Manager.on_step_end

    def crash(self: Manager) -> None:
        step(self)
        if self.step == 13:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Manager, "on_step_end", crash)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
    parts = run(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# ---------------------------------------------------------------- plug-ins


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install, for one test, a distribution that declares entry points."""

    def install(**entries: str) -> None:
        points = [EntryPoint(name, value, spec.PLUGINS) for name, value in entries.items()]
        monkeypatch.setattr(spec, "entry_points", lambda group: points if group == spec.PLUGINS else [])
        monkeypatch.setattr(Criterion, "_members", dict(Criterion._members))
        spec.load_plugins.cache_clear()

    yield install
    spec.load_plugins.cache_clear()


def test_a_plug_in_adds_a_criterion(plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_plugin.py").write_text(
        "from typing import Literal\nfrom sparsify.criteria import Criterion\n\n"
        "class Negative(Criterion):\n"
        '    """Prune the largest first."""\n\n'
        '    type: Literal["negative"] = "negative"\n    factor: float = 1.0\n\n'
        "    def score(self, weight, place):\n        return -self.factor * weight.abs()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin(theirs="their_plugin")
    recipe = Recipe.parse(
        'version: 1\nmodifiers: [{type: prune, targets: "*", criterion: negative, '
        "sparsity: {to: 0.5, curve: constant}}]"
    )
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    largest = model[0].weight.detach().abs().flatten().topk(8).indices
    Manager(recipe).apply(model, torch.optim.SGD(model.parameters(), lr=0.1)).finalize()
    assert not model[0].weight.flatten()[largest].any()
    assert "negative" in json.dumps(recipe_schema())


def test_a_criterion_whose_needs_cannot_be_met_is_refused(plugin: Any) -> None:
    plugin()

    class Hungry(Criterion):
        needs: ClassVar[frozenset[str]] = frozenset({"gradients"})
        type: Literal["hungry"] = "hungry"

    recipe = Recipe.parse('version: 1\nmodifiers: [{type: prune, targets: "*", criterion: hungry, sparsity: 0.5}]')
    with pytest.raises(PlanError, match="the criterion 'hungry' needs gradients, which `prune` cannot give yet"):
        Plan.of(recipe, torch.nn.Sequential(torch.nn.Linear(4, 4)), total_steps=10)


def test_a_broken_plug_in_is_named(plugin: Any) -> None:
    plugin(theirs="no_such_module")
    with pytest.raises(
        SparsifyError, match="the plug-in 'theirs' of an unknown distribution does not load: ModuleNotFound"
    ):
        Recipe.parse('version: 1\nmodifiers: [{type: prune, targets: "*", sparsity: 0.5}]')


def test_two_types_of_one_name_are_refused(plugin: Any) -> None:
    plugin()
    with pytest.raises(SparsifyError, match="two criterion types are called 'magnitude'"):

        class Other(Criterion):
            family_of_mine: ClassVar[str] = ""
            type: Literal["magnitude"] = "magnitude"


# ---------------------------------------------------------------- the wheel


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    """Build the wheel, install it alone, and use it. Its dependencies come from this environment, by path."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("sparsify_torch-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    inside = tmp_path / "venv" / "bin" / "python"
    subprocess.run([inside, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    needed = tmp_path / "needed"
    needed.mkdir()
    code = """
import shutil, sys
from importlib.metadata import entry_points
from importlib.resources import files
import sparsify, sparsify.integrations.plain.loop
from sparsify import Recipe, engine
assert "venv" in sparsify.__file__, sparsify.__file__
assert Recipe.load("demo").name == "demo"
assert (files("sparsify.schemas") / "recipe.v1.json").read_text().startswith("{")
assert any(e.name == "sparsify" for e in entry_points(group="console_scripts"))
assert "py.typed" in [p.name for p in files("sparsify").iterdir()]
assert engine.missing() is None or not shutil.which("c++"), engine.missing()
sparsify.integrations.plain.loop.main()
"""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    link_dependencies(Path(site), needed)
    environment = {"PYTHONPATH": str(needed), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([inside, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "90.0%" in result.stdout


CORE = ("torch", "torchgen", "functorch", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",
        "yaml", "_yaml", "re2", "_re2", "google_re2", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec")  # fmt: skip
"""Our four dependencies and theirs: nothing else of this environment can be imported."""


def link_dependencies(site: Path, folder: Path) -> None:
    """Link the core's dependencies, and no others, into a folder."""
    for path in site.iterdir():
        if path.name.split(".")[0].split("-")[0] in CORE:
            (folder / path.name).symlink_to(path)
