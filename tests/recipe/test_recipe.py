"""Loading, filling in, dumping, resolving, extending and finding recipes."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from sparsify import Recipe, RecipeError
from sparsify.criteria.magnitude import Magnitude
from sparsify.modifiers.prune import Prune
from sparsify.patterns.block import Block
from sparsify.patterns.n_m import NM
from sparsify.recipe import library, migrate
from sparsify.schedules import Ramp, Window

FULL = """\
version: 1
name: full
summary: Everything that the language has.
about:
  authors: [someone]
  license: Apache-2.0
  results: [{metric: accuracy, dense: 0.9, sparse: 0.89, sparsity: 0.8, seeds: 3}]
variables:
  sparsity: {value: 0.8, min: 0, max: 0.99, description: how much}
  warm_up: 5
  where: {value: encoder, choices: [encoder, decoder]}
bindings:
  teacher: {description: the dense model}
stages:
  - name: shrink
    length: 90%
    modifiers:
      - type: prune
        name: big
        targets: ["${where}.*", "re:head\\\\.(a|b)"]
        exclude: "*.norm"
        pattern: 2:4
        scope: global
        sparsity: {from: 0, to: "${min(sparsity, 0.5)}", curve: linear}
        window: {begin: "${warm_up}%", end: 70%, every: 1 step}
      - type: prune
        targets: "type:Linear"
        pattern: {type: block, shape: [4, 1], reduce: l2}
        sparsity: "${sparsity / 2 + 0.1}"
        window: {begin: 2 epochs, end: 500 steps, every: 10}
  - name: settle
"""


def test_a_full_recipe_is_read() -> None:
    recipe = Recipe.parse(FULL)
    first, second = recipe.staged()[0].modifiers
    assert isinstance(first, Prune)
    assert isinstance(second, Prune)
    assert first.targets == ("encoder.*", r"re:head\.(a|b)")
    assert first.exclude == ("*.norm",)
    assert first.pattern == NM(n=2, m=4)
    assert first.sparsity is not None
    assert (first.sparsity.from_, first.sparsity.to) == (0, 0.5)
    assert [str(d) for d in (first.window.begin, first.window.end, first.window.every)] == ["5%", "70%", "1 step"]
    assert second.sparsity is not None
    assert second.sparsity.to == pytest.approx(0.5)
    assert str(second.window.begin) == "2 epochs"
    assert recipe.staged()[0].names() == ["big", "prune"]


def test_variables_are_filled_in_and_kept() -> None:
    recipe = Recipe.parse(FULL, sparsity=0.4, where="decoder")
    first = recipe.staged()[0].modifiers[0]
    assert isinstance(first, Prune)
    assert first.sparsity is not None
    assert (first.targets or ())[0] == "decoder.*"
    assert first.sparsity.to == 0.4
    again = Recipe.parse(recipe.dump())
    assert again == recipe
    assert again.variables["sparsity"].value == 0.4
    assert again.variables["sparsity"].max == 0.99


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsty": 0.5}, "unknown variable 'sparsty' (did you mean 'sparsity'?)"),
        ({"sparsity": 1.5}, "variable 'sparsity': must be at most 0.99, got 1.5"),
        ({"sparsity": "high"}, "variable 'sparsity': expected a number, got 'high'"),
        ({"sparsity": True}, "variable 'sparsity': expected a number, got True"),
        ({"where": "head"}, "variable 'where': must be one of 'encoder', 'decoder', got 'head'"),
    ],
)
def test_wrong_values_for_variables(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.parse(FULL, "f.yaml", **values)
    assert str(error.value) == f"f.yaml:8:1: {message}"


def test_the_round_trip_is_identity() -> None:
    recipe = Recipe.parse(FULL)
    assert Recipe.parse(recipe.dump()) == recipe
    assert Recipe.parse(recipe.dump()).dump() == recipe.dump()


def test_resolving_leaves_nothing_open() -> None:
    resolved = Recipe.parse(FULL).resolve(sparsity=0.6)
    text = resolved.dump()
    assert "${" not in text
    assert "variables" not in resolved.source()
    assert "curve:\n" in text
    assert Recipe.parse(text).sha256 == resolved.sha256
    assert Recipe.parse(text).resolve() == resolved
    assert resolved.resolve() == resolved


def test_the_hash_is_of_what_the_recipe_does() -> None:
    base = Recipe.parse(FULL)
    described = Recipe.parse(FULL.replace("someone", "someone else").replace("name: full", "name: other"))
    assert described.sha256 == base.sha256
    assert Recipe.parse(FULL.replace("teacher: {", "pupil: {")).sha256 == base.sha256
    assert Recipe.parse(FULL, warm_up=5.0).sha256 == base.sha256
    assert Recipe.parse(FULL, warm_up=6).sha256 != base.sha256
    assert Recipe.parse(FULL.replace("2:4", "1:4")).sha256 != base.sha256


def test_the_hash_is_the_same_everywhere() -> None:
    text = 'version: 1\nmodifiers:\n  - {type: prune, targets: "*", sparsity: 0.5}\n'
    shorthand = Recipe.parse(text)
    long = Recipe.parse(
        'version: 1\nstages:\n  - name: main\n    modifiers:\n      - type: prune\n        targets: ["*"]\n'
        "        sparsity: {to: 0.5, from: 0.0, curve: {type: cubic}}\n        criterion: magnitude\n"
        "        window: {begin: 0 steps}\n"
    )
    assert shorthand.sha256 == long.sha256
    assert shorthand.sha256 == "9762cd00daf624149e1f64b0c3dc1c7a6d078875badf0794462ca9945d599b79"


def test_recipes_built_in_python_are_the_same() -> None:
    built = Recipe(
        version=1,
        modifiers=(
            Prune(
                targets=("*",),
                criterion=Magnitude(),
                pattern=NM(n=2, m=4),
                sparsity=Ramp(from_=0.1, to=0.5),
                window=Window(),
            ),
        ),
    )
    read = Recipe.parse(built.dump())
    assert read.sha256 == built.sha256
    assert read.staged() == built.staged()
    written = 'version: 1\nmodifiers: [{type: prune, targets: "*", pattern: 2:4, sparsity: {from: 0.1, to: 0.5}}]'
    assert Recipe.parse(written).staged() == built.staged()


def test_recipes_are_frozen() -> None:
    recipe = Recipe.parse(FULL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


def test_every_value_of_a_recipe_may_be_an_expression_but_its_type() -> None:
    text = """\
version: 1
variables: {pattern: "2:4", scope: global, n: 4, unit: steps, on: true}
modifiers:
  - {type: prune, targets: "*", pattern: "${pattern}", scope: "${scope}", sparsity: 0.5, window: {end: "${n * 2} ${unit}"}}
  - {type: prune, targets: "*", pattern: {type: block, shape: ["${n}", "${n // 4}"]}, sparsity: "${round(0.512, 1)}"}
"""
    first, second = Recipe.parse(text).staged()[0].modifiers
    assert isinstance(first, Prune)
    assert isinstance(second, Prune)
    assert first.pattern == NM(n=2, m=4)
    assert first.scope.type == "global"
    assert str(first.window.end) == "8 steps"
    assert isinstance(second.pattern, Block)
    assert second.pattern.shape == (4, 1)


def test_dollar_is_text_outside_stages() -> None:
    assert Recipe.parse(f"{FULL}".replace("Everything that the language has.", "costs ${5}")).summary == "costs ${5}"


def test_extending_merges_mappings_and_replaces_the_rest(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(FULL)
    (tmp_path / "child.yaml").write_text(
        "version: 1\nname: child\nextends: parent.yaml\nvariables: {sparsity: 0.3, warm_up: {value: 7, max: 10}}\n"
    )
    child = Recipe.load(tmp_path / "child.yaml")
    assert child.name == "child"
    assert child.summary == ""
    assert child.variables["sparsity"].value == 0.3
    assert child.variables["sparsity"].max == 0.99, "bounds are inherited"
    assert child.variables["warm_up"].value == 7
    assert child.sha256 == Recipe.parse(FULL, sparsity=0.3, warm_up=7).sha256
    assert "extends" not in child.source()
    assert Recipe.parse(child.dump()) == child


def test_a_body_replaces_the_other_body(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(FULL)
    (tmp_path / "child.yaml").write_text(
        'version: 1\nextends: parent.yaml\nmodifiers:\n  - {type: prune, targets: "*", sparsity: "${sparsity}"}\n'
    )
    child = Recipe.load(tmp_path / "child.yaml")
    assert not child.stages
    assert len(child.staged()[0].modifiers) == 1


def test_problems_in_a_parent_are_placed_in_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parent.yaml").write_text('version: 1\nmodifiers:\n  - {type: prune, targts: "*", sparsity: 0.5}\n')
    Path("child.yaml").write_text("version: 1\nextends: parent.yaml\nnme: x\n")
    with pytest.raises(RecipeError) as error:
        Recipe.load("child.yaml")
    marks = [(p.mark.file, p.mark.line) for p in error.value.problems if p.mark]
    assert sorted((Path(file).name, line) for file, line in marks) == [("child.yaml", 3), ("parent.yaml", 3)]


def test_names_are_found_along_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "version: 1\nname: {}\nmodifiers: [{{type: prune, targets: '*', sparsity: 0.5}}]\n"
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (there / "mine.yaml").write_text(text.format("there"))
    monkeypatch.chdir(here)
    monkeypatch.setenv("SPARSIFY_RECIPES", f"/does/not/exist:{there}")
    assert Recipe.load("mine").name == "there"
    (here / "mine.md").write_text(f"---\n{text.format('here')}---\n# A card\n")
    assert Recipe.load("mine").name == "here"
    (here / "demo.yaml").write_text(text.format("mine, not the built-in"))
    assert Recipe.load("demo").name == "mine, not the built-in"


def test_the_built_in_library_is_found() -> None:
    assert Recipe.load("demo").name == "demo"


def test_extends_finds_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    child = Recipe.parse("version: 1\nextends: demo\nvariables: {sparsity: 0.5}\n")
    assert child.sha256 == Recipe.load("demo", sparsity=0.5).sha256


def test_older_versions_are_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_zero(data: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in data.items() if k != "modifier_list"}, "modifiers": data["modifier_list"]}

    monkeypatch.setitem(migrate.MIGRATIONS, 0, from_zero)
    old = 'version: 0\nmodifier_list:\n  - {type: prune, targets: "*", sparsity: 0.5}\n'
    new = 'version: 1\nmodifiers:\n  - {type: prune, targets: "*", sparsity: 0.5}\n'
    assert Recipe.parse(old) == Recipe.parse(new)
    with pytest.raises(RecipeError) as error:
        Recipe.parse(old.replace("version: 0", "version: 0\nnme: x"), "f.yaml")
    assert str(error.value).startswith("f.yaml:2:1: nme: unknown key"), "places survive the migration"


def test_installed_packages_are_on_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_recipes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "theirs.yaml").write_text("version: 1\nextends: demo\nvariables: {sparsity: 0.7}\n")
    (package / "demo.yaml").write_text(
        "version: 1\nname: not the built-in\nmodifiers: [{type: prune, targets: x, sparsity: 0}]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    point = EntryPoint("their", "their_recipes", library.GROUP)
    monkeypatch.setattr(library, "entry_points", lambda group: [point] if group == library.GROUP else [])
    assert library.names()["theirs"][0] == "package their_recipes"
    assert Recipe.load("demo").name == "not the built-in"
    with pytest.raises(RecipeError, match="looked in: working folder, package their_recipes, built in"):
        Recipe.load("nothing-like-it")
