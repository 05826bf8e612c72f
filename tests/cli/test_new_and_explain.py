"""`sparsify new` and `sparsify explain`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsify import Plan, Recipe
from sparsify.cli.app import app
from sparsify.pretrained import skeleton
from sparsify.recipe.advice import GOALS, HARDWARE
from sparsify.recipe.library import names
from sparsify.report.timeline import in_text, timeline
from tests import tiny
from tests.models import build

OURS = sorted(name for name, (label, _) in names().items() if label == "built in")


def call(*words: str, code: int = 0, given: str | None = None) -> str:
    done = CliRunner().invoke(app, list(words), input=given)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.text_model(folder / "bert")
    build("resnet").save_pretrained(folder / "resnet")  # type: ignore[operator]
    return folder


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("model", ["bert", "resnet"])
def test_every_answer_gives_a_recipe_that_fits(
    models: Path, tmp_path: Path, model: str, goal: str, hardware: str
) -> None:
    path = tmp_path / "mine.yaml"
    words = ["new", "--model", str(models / model), "--goal", goal, "--hardware", hardware, "--out", str(path)]
    done = CliRunner().invoke(app, words)
    if model == "resnet" and hardware in ("nvidia", "sparse-engine") and done.exit_code:
        assert "divide" in done.output, "a shape that the pattern cannot take is an error, not a recipe"
        return
    assert done.exit_code == 0, done.output
    text = path.read_text()
    assert text.count("#") >= 4, "it has comments"
    recipe = Recipe.load(path)
    assert recipe.about is not None
    assert recipe.about.base_model == str(models / model)
    plan = Plan.of(recipe, skeleton(str(models / model)), total_steps=1000)
    assert plan.modifiers
    call("validate", str(path))
    call("explain", str(path))


def test_sparsity_can_be_chosen_where_there_is_a_choice(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    flags = ("new", "--model", str(models / "bert"), "--out", str(path))
    call(*flags, "--goal", "size", "--sparsity", "0.6")
    assert Recipe.load(path).resolve().staged()[0].modifiers[0].sparsity.to == 0.6  # type: ignore[attr-defined]
    assert "is there already" in call(*flags, "--goal", "size", code=1)
    more = (*flags, "--overwrite")
    assert "no other" in call(*more, "--goal", "speed", "--hardware", "nvidia", "--sparsity", "0.7", code=1)
    assert "more than" in call(*more, "--goal", "speed", "--hardware", "cpu", "--sparsity", "0.99", code=1)
    assert "did you mean 'speed'" in call(*more, "--goal", "sped", code=1)
    assert "did you mean 'nvidia'" in call(*more, "--goal", "speed", "--hardware", "nvida", code=1)
    assert "--goal is missing" in call(*more, code=1)
    assert Recipe.load(path).name == "small", "nothing was overwritten by a refusal"


def test_it_asks_at_a_terminal(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsify.cli import new

    asked = []

    def answer(question: str, default: str | None = None) -> str:
        asked.append(question)
        return {"The m": str(models / "bert"), "The g": "speed", "Where": "cpu"}[question[:5]]

    monkeypatch.setattr(new.typer, "prompt", answer)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)})())
    new.new(out_file=tmp_path / "a.yaml")
    assert len(asked) == 3
    assert Recipe.load(tmp_path / "a.yaml").name == "fast"


@pytest.mark.parametrize("name", OURS)
def test_every_recipe_can_be_told(name: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    text = " ".join(call("explain", name, "--png", str(picture)).split())
    recipe = Recipe.load(name)
    for variable in recipe.variables:
        assert f"--set {variable}=" in text
    prunes = any(modifier.type == "prune" for _, modifier in recipe.keyed())
    assert ("What a weight is worth:" in text) == prunes
    assert "When:" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_timeline_is_that_of_the_plan() -> None:
    found = timeline(Recipe.load("gmp", sparsity=0.9), total=200)
    ((_, track),) = found.tracks
    assert (track.window.begin, track.window.end) == (10, 140)
    assert track.at(9) is None
    assert track.at(140) == track.at(200) == pytest.approx(0.9)
    assert track.at(75) == pytest.approx(0.9 * (1 - 0.5**3), abs=0.04)
    line = in_text(found, width=20)[0]
    bars = line.split("|")[1]
    assert bars[0] == "·"
    assert bars[-1] == "▇"
    assert line.endswith("90%")


def test_stages_and_units() -> None:
    text = """
version: 1
stages:
  - name: first
    length: 20%
    modifiers: [{type: prune, sparsity: 0.5, window: {begin: 0, end: 50%}}]
  - name: second
    modifiers: [{type: prune, criterion: existing}]
"""
    found = timeline(Recipe.parse(text), total=1000)
    assert found.stages == (("first", 0), ("second", 200))
    assert found.tracks[0][1].window.end == 100
    assert found.tracks[1][1].window.begin == 200
    long = timeline(Recipe.parse("version: 1\nmodifiers: [{type: prune, sparsity: 0.5, window: {end: 40000}}]"))
    assert long.total == 80_000
    epochs = timeline(Recipe.parse("version: 1\nmodifiers: [{type: prune, sparsity: 0.5, window: {end: 30 epochs}}]"))
    assert epochs.total == 6000


def test_a_run_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("version: 1\nmodifiers: [{type: prune, sparsity: 0.5, window: {end: 400}}]")
    assert "in a run of that length" in call("explain", str(path), "--steps", "100", code=1)
