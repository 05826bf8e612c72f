"""`sparsify new` and `sparsify explain`."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from sparsify import Plan, PlanError, Recipe
from sparsify.cli.app import app
from sparsify.cli.fitting import Fitter
from sparsify.pretrained import skeleton
from sparsify.recipe.advice import GOALS, HARDWARE, advise
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


class Unknown(nn.Module):
    """Two blocks of a class that no family knows, with experts and their router, a pooler and an output that is tied."""

    def __init__(self, odd: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "mix": nn.Linear(8, odd), "back": nn.Linear(odd, 8),
            "moe": nn.ModuleDict({"gate": nn.Linear(8, 2), "experts": nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])}),
        }) for _ in range(2))  # fmt: skip
        self.pooler = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 10, bias=False)
        self.lm_head.weight = self.embed.weight


def fitted(model: nn.Module, goal: str, hardware: str, steps: int = 100) -> tuple[str, list[str]]:
    """Return the name of the recipe for a model, and the weights that it prunes."""
    text, advice = Fitter("x", model, steps, None).first(advise(goal, hardware, (), convolutions=False))
    plan = Plan.of(Recipe.parse(text), model, total_steps=steps)
    return advice.name, [weight.name for weight in plan.targeted()]


@pytest.mark.parametrize(("goal", "hardware"), [("size", "any"), ("speed", "nvidia"), ("speed", "sparse-engine")])
def test_in_a_model_that_nobody_knows_what_lies_in_blocks_is_meant(goal: str, hardware: str) -> None:
    _, names = fitted(Unknown(), goal, hardware)
    parts = ("mix", "back", "moe.experts.0", "moe.experts.1")
    assert names == [f"blocks.{block}.{part}.weight" for block in (0, 1) for part in parts]


def test_what_a_pattern_does_not_fit_is_left_out() -> None:
    _, names = fitted(Unknown(odd=11), "speed", "nvidia")
    assert "blocks.0.mix.weight" in names, "8 inputs"
    assert "blocks.0.back.weight" not in names, "11 inputs"
    _, names = fitted(Unknown(odd=11), "speed", "sparse-engine")
    assert "blocks.0.mix.weight" not in names, "11 outputs"


def test_without_blocks_all_but_the_output_is_meant() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    assert fitted(model, "size", "any")[1] == ["0.weight", "2.weight"]
    assert fitted(nn.Sequential(nn.Linear(8, 4)), "size", "any")[1] == ["0.weight"]


def test_where_structure_is_not_known_blocks_are_written_and_it_says_so() -> None:
    text, advice = Fitter("x", Unknown(), 100, None).first(advise("speed", "cpu", (), convolutions=False))
    assert "No heads, neurons or filters of this model are known" in text.replace("\n# ", " ")
    assert "no heads, neurons or filters" in advice.but


def test_nothing_that_does_not_plan_is_written(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PlanError("it does not fit")

    monkeypatch.setattr(Plan, "of", refuse)
    flags = ("--model", str(models / "bert"), "--goal", "size", "--out", str(tmp_path / "a.yaml"))
    assert "no such recipe fits" in call("new", *flags, code=1)
    assert not (tmp_path / "a.yaml").exists()


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("steps", [2, 3, 5, 11, 12, 13, 60, 1000, 10**6])
def test_the_window_fits_the_steps(models: Path, tmp_path: Path, steps: int, goal: str) -> None:
    path = tmp_path / "a.yaml"
    call(
        "new",
        "--model",
        str(models / "bert"),
        "--goal",
        goal,
        "--hardware",
        "cpu",
        "--steps",
        str(steps),
        "--out",
        str(path),
    )
    for modifier in Plan.of(Recipe.load(path), skeleton(str(models / "bert")), total_steps=steps).modifiers:
        updates = modifier.window.count()
        assert updates >= (12 if steps >= 60 else 3)
        assert modifier.window.every <= 10


def test_a_recipe_for_the_model_that_train_makes(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    flags = ("--model", str(models / "bert"), "--task", "text-classification")
    shown = " ".join(call("new", *flags, "--goal", "size", "--steps", "60", "--out", str(path)).split())
    assert f"sparsify plan {path} --model {models / 'bert'} --task text-classification --steps 60" in shown
    assert "bert.encoder.layer" in call("plan", str(path), *flags, "--steps", "60", "--tensors")
    call("new", *flags[:2], "--goal", "size", "--steps", "1", "--out", str(path), code=2)


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
