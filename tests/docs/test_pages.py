"""The pages: all of them are in the navigation, and what they show of recipes, commands and figures is true."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from sparsify.cli.app import app
from tests import tiny

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
METHODS = sorted((DOCS / "methods").glob("*.md"))
LARGEST_PICTURE = 25_000
"""Bytes."""


def module(path: Path) -> ModuleType:
    """Return a script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


method_pages = module(ROOT / "benchmarks" / "method_pages.py")


def entries(nav: Any) -> Iterator[str]:
    """Yield the files that a navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from entries(each)


def test_every_page_is_in_the_navigation_once() -> None:
    named = list(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_pages_show_no_picture_that_is_not_there() -> None:
    for page in DOCS.rglob("*.md"):
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / picture).is_file(), f"{page.name}: {picture}"


def test_the_reference_of_recipes_explains_every_value_that_it_names() -> None:
    text = (DOCS / "recipe-reference.md").read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w-]", "", each.lower()) for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert links
    assert links <= headings


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_a_method_page_shows_the_recipe_as_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == method_pages.page(page.stem, text), "run `make schema`"


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_a_method_page_has_a_small_picture(page: Path) -> None:
    picture = page.parent / "pictures" / f"{page.stem}.svg"
    assert 0 < picture.stat().st_size <= LARGEST_PICTURE
    text = picture.read_text(encoding="utf-8")
    assert f">{page.stem}" in text, "its title"
    assert "right, " in text, "its accuracy"
    assert "<script" not in text


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_the_command_of_a_method_page_is_one(page: Path) -> None:
    program, *words = shlex.split(method_pages.command(page.stem))
    assert program == "sparsify"
    command = get_command(app)
    with command.make_context(program, words, resilient_parsing=False) as context:
        name, sub, rest = command.resolve_command(context, context._protected_args + context.args)
        given = sub.make_context(name, rest, parent=context).params
    assert given["recipe"] == (page.stem if page.stem in method_pages.names() else "mine.yaml")
    assert ("teacher" in page.read_text().partition("## The command")[0]) or given["teacher"] is None


SMALLER = {"compound-3": ["layers=1"], "compound-6": ["layers=1"], "layer-drop-3": ["layers=1"]}
SMALLER |= {"layer-drop-6": ["layers=1"], "lottery-ticket": ["every=4"]}
SMALLER |= {name: ["every=4"] for name in ("rigl", "set", "granet", "admm")}


@pytest.mark.slow
def test_the_commands_of_method_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.text_model(tmp_path / "path" / "or" / "name")
    tiny.tsv(tmp_path / "train.tsv", 700, seed=1)
    tiny.tsv(tmp_path / "dev.tsv", 40, seed=2)
    dense = f"train {method_pages.TEXT} --out runs/dense"
    sparse = f"train {method_pages.TEXT} --recipe gmp --out runs/sparse"
    commands = {"dense": shlex.split(dense), "sparse": shlex.split(sparse)}
    for page in METHODS:
        if page.stem in method_pages.DATA:  # a convolutional network
            continue
        words = shlex.split(method_pages.command(page.stem))[1:]
        commands[page.stem] = [*words, *(word for value in SMALLER.get(page.stem, ()) for word in ("--set", value))]
    for name, words in commands.items():
        if "mine.yaml" in words:
            shown = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
            (tmp_path / "mine.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```$", shown, re.MULTILINE | re.DOTALL)[0])
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{name}: {' '.join(words)}\n{done.output}"


def figures(text: str) -> set[str]:
    """Return the numbers with a point in a text."""
    return set(re.findall(r"(?<![\d.,])\d+\.\d+(?![\d.]*\d)", text))


def test_which_recipe_has_no_figure_of_its_own() -> None:
    measured = {float(each) for each in figures((DOCS / "results.md").read_text(encoding="utf-8"))}
    text = re.sub(r"`[^`]*`", "", (DOCS / "which-recipe.md").read_text(encoding="utf-8"))
    shown = figures(text)
    assert len(shown) > 20
    for each in shown:
        digits = len(each.partition(".")[2])
        assert any(round(value + 1e-9, digits) == float(each) for value in measured), f"{each} is not in results.md"
