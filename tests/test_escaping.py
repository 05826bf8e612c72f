"""Text on its way to people: nothing in it steers a terminal, opens markup or a formula, or grows without bound."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from sparsify import Recipe, RecipeError, StateError, escaping
from sparsify.cli.app import app
from sparsify.cli.console import Terminal, styled
from sparsify.density import Count
from sparsify.errors import MOST_PROBLEMS, Mark, Problem, did_you_mean
from sparsify.report import timeline
from sparsify.report.curves import Curves
from sparsify.report.page import page
from sparsify.report.picture import draw
from tests.hostile import BIDI, NASTY, harmless

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text(st.sampled_from(NASTY + BIDI + "\n\t"))


@given(ANY_TEXT)
def test_what_is_shown_is_harmless(text: str) -> None:
    assert harmless(escaping.visible(text))
    assert escaping.visible(escaping.visible(text)) == escaping.visible(text)
    line = escaping.one_line(text, 50)
    assert harmless(line)
    assert len(line) <= 50
    assert not set(line) & set("\n\t")
    assert harmless(escaping.message(text * 100))
    assert "<" not in escaping.html(text)
    escaping.visible(text).encode()


def test_harmless_text_stays_as_it_is() -> None:
    text = "Größe: 90 % → λ, 日本語, 👩\u200d💻, a\tb\n[x] $y$"
    assert escaping.visible(text) == text


@given(ANY_TEXT)
def test_json_says_the_same(text: str) -> None:
    shown = escaping.json_text(json.dumps({"a": text}, ensure_ascii=False))
    assert harmless(shown)
    assert json.loads(shown) == {"a": json.loads(json.dumps(text))}


@given(ANY_TEXT)
def test_errors_are_harmless_and_bounded(text: str) -> None:
    error = RecipeError(Problem(text * 500, text * 500, Mark(text, 1, 1)))
    assert harmless(str(error))
    assert len(str(error)) < 5000
    assert harmless(str(StateError(f"{text}: no such folder")))


def test_a_long_key_is_cut_in_a_message() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(f"version: 1\n? {'k' * 500_000}\n: 1\n")
    assert len(str(caught.value)) < 2000
    assert "unknown key 'kkk" in str(caught.value)


def test_many_problems_are_counted() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse("version: 1\nmodifiers:\n" + "  - {type: prune, sparsity: 2}\n" * 500)
    assert len(caught.value.problems) == 500
    assert len(str(caught.value).splitlines()) == MOST_PROBLEMS + 1
    assert str(caught.value).endswith("… and 400 more problems")


def test_suggestions_for_long_words_and_many_choices_cost_little() -> None:
    assert did_you_mean("x" * 10**6, ["y" * 10**6, "abc"], most=0) == ""
    assert did_you_mean("abd", (str(number) for number in range(10**5)), most=0) == ""


@given(ANY_TEXT)
def test_a_terminal_takes_every_text_as_it_is(text: str) -> None:
    written = StringIO()
    console = Terminal(file=written, width=80, force_terminal=True)
    table = Table(text, title=text)
    table.add_row(text)
    for shown in (text, Text(text, style="bold"), styled((text, "bold"), text), table):
        console.print(shown)
    bare = written.getvalue()
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[3m", "\x1b[1;3m", "\x1b[1;35m"):  # what rich itself writes
        bare = bare.replace(code, "")
    assert harmless(bare), ascii(bare)


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal(width=80)
    console.print("[/red] [bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "[/red] [bold]x[/bold] :smile:\n"


@pytest.mark.parametrize("name", [NASTY, "_hidden", "x" * 10_000])
def test_pictures_draw_every_name(name: str) -> None:
    counts = {f"{name}{number}": Count(4, 2) for number in range(220)}
    points = [(1, 0.5), (2, 0.7)]
    for grid in (
        None,
        {f"{name}{number}": {f"{name}{layer}": Count(4, 1) for layer in range(3)} for number in range(3)},
    ):
        picture = draw(name, Curves(points, points, points, name, 0.9), counts, grid)
        assert picture.png.startswith(b"\x89PNG")
        assert harmless(picture.svg)
    recipe = Recipe.parse('version: 1\nmodifiers: [{type: prune, targets: "*", sparsity: 0.5}]\n')
    assert timeline.draw(timeline.timeline(recipe), name).startswith(b"\x89PNG")


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_pages_hold_no_tag_that_is_not_ours() -> None:
    nasty = "<script>alert(1)</script>" + NASTY
    text = page(nasty, nasty, [((nasty,), [(nasty,)])], "<svg></svg>", [(nasty, nasty)])
    words = Words()
    words.feed(text)
    assert "script" not in words.tags
    assert harmless(text)
    text.encode()


RECIPE = """\
version: 1
name: {name}
summary: {name}
variables: {{s: {{value: 0.5, description: {name}}}, t: {{value: {name}}}}}
modifiers:
  - {{type: prune, targets: ["*", {name}], sparsity: "${{s}}"}}
"""


@pytest.fixture
def nasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shown = json.dumps(NASTY.replace("\ud800", ""), ensure_ascii=True)
    name = "[red]\x1b[31m$\\frac{$.yaml"
    Path(name).write_text(RECIPE.format(name=shown))
    return name


def test_commands_show_every_recipe(nasty: str) -> None:
    for words in (["validate", nasty], ["validate", "--json", nasty], ["explain", nasty, "--png", "[x] \x1b.png"], ["recipes", "list"],
                  ["recipes", "show", nasty], ["recipes", "show", nasty, "--resolved"], ["recipes", "list", "--json"],
                  ["diff", nasty, "gmp"], ["diff", nasty, nasty, "--json"]):  # fmt: skip
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (words, result.output, result.exception)
        assert harmless(result.output), (words, ascii(result.output))


@pytest.mark.parametrize(
    "words",
    [
        ["validate", "\x1b[31m"],
        ["\x1b[31m\u202e"],
        ["validate", "--\x1b[31m"],
        ["explain", "gmp", "--steps", "\x1b[31m"],
        ["explain", "gmp", "--set", "\x1b[31m"],
        ["explain", "gmp", "--set", "s\x1b=1\udcff"],
        ["explain", "gmp", "--set", "path_or_name=1"],
        ["plan", "gmp", "--model", "./\x1b[31m[/red]", "--steps", "3"],
        ["report", "\x1b[31m[/red]"],
        ["diff", "\x1b[31m[/red]", "gmp"],
        ["schema", "--check", "\x1b[31m"],
        ["new", "--model", "./\x1b[31m[/red]", "--goal", "size"],
        ["export", "./\x1b[31m[/red]", "x.onnx"],
        ["demo", "--recipe", "\x1b[31m[/red]"],
    ],
)
def test_complaints_are_harmless(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code in (1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert harmless(result.output), ascii(result.output)
    assert result.stderr.strip()


def test_a_dumped_recipe_is_the_same_after_it_was_shown() -> None:
    recipe = Recipe.parse(RECIPE.format(name=json.dumps("\u202e\u200b[x]\x1b\U000e0001")))
    assert Recipe.parse(escaping.visible(recipe.dump())) == recipe


def test_a_training_with_names_like_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe, labels, model and --out: the whole way to the last line, and back in report, plan and diff."""
    from tests import tiny

    monkeypatch.chdir(tmp_path)
    model, out, recipe = "[bold]model", "[red] $\\frac{$ \x1b[31m", "[cyan].yaml"
    tiny.text_model(Path(model))
    for name, count in (("[t].tsv", 32), ("e.tsv", 8)):
        text = tiny.tsv(Path(name), count, seed=1).read_text()
        Path(name).write_text(text.replace("1\t", "[/red]\x1b[31m\t").replace("0\t", "[bold\u202e\t"))
    shown = json.dumps(NASTY.replace("\ud800", ""))
    Path(recipe).write_text(
        f"version: 1\nname: {shown}\nmodifiers: [{{type: prune, sparsity: {{to: 0.5, curve: one-shot}}}}]\n"
    )
    words = ["train", "--task", "text-classification", "--model", f"./{model}", "--train", "[t].tsv", "--eval", "e.tsv", "--out", out,
             "--recipe", recipe, "--epochs", "1", "--batch-size", "8", "--label-column", "0", "--text-column", "1"]  # fmt: skip
    for command in (words, ["report", out, "--html", "[x].html", "--png", "[x].png"], ["report", out, "--json"],
                    ["plan", recipe, "--model", out, "--steps", "9"], ["diff", out, out], ["train", *words[1:], "--overwrite", "--freeze", "*"]):  # fmt: skip
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, SystemExit | None), repr(done.exception)
        assert done.exit_code == ("--freeze" in command), done.output
        assert harmless(done.output), ascii(done.output)
    assert harmless(Path("[x].html").read_text())
