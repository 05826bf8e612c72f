"""What a hostile recipe may cost: bounded memory, time, and length of messages; files that are no recipes."""

from __future__ import annotations

import inspect
import os
import resource
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsify import Manager, Recipe, RecipeError
from sparsify.recipe import library
from sparsify.recipe.scalars import read_scalar
from sparsify.recipe.variables import RESERVED
from sparsify.report.timeline import in_text, timeline
from sparsify.schedules import Window
from sparsify.schedules.window import StepWindow
from sparsify.selectors import SelectorError, matcher

HEAD = "version: 1\n"
PRUNE = '  - {type: prune, targets: "*", sparsity: 0.5}\n'
GOOD = HEAD + "modifiers:\n" + PRUNE
MEGABYTES = 1 << 20


@pytest.fixture
def frugal() -> Iterator[None]:
    """Fail what takes over 20 s of the processor, or lets the process grow by over 200 MB."""
    start, before = time.process_time(), _peak()
    yield
    assert time.process_time() - start < 20
    assert _peak() - before < 200 * MEGABYTES


def _peak() -> int:
    """Return the largest memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def refused(text: str, **values: object) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text, "bad.yaml", **values)
    assert len(str(caught.value)) < 100_000
    return str(caught.value)


# ------------------------------------------------------------------ expansion


@pytest.mark.usefixtures("frugal")
def test_variables_do_not_multiply() -> None:
    variables = f"variables: {{s: {'x' * 90_000}}}\n"
    many = "".join(f'  - {{type: prune, targets: "{"${s}" * 9}", sparsity: 0.5}}\n' for _ in range(1_000))
    text = HEAD + variables + "modifiers:\n" + many
    said = refused(text)
    assert "bad.yaml:5:28: modifiers[1].targets: with the values of its variables the recipe has more than" in said
    one = HEAD + variables + "modifiers:\n" + "".join(f'  - {{type: prune, name: "${{s}}{n}"}}\n' for n in range(3_000))
    assert "more than 1048576 characters" in refused(one)
    bare = HEAD + variables + "modifiers: [" + '"${s}", ' * 15_000 + "]\n"
    assert "more than 1048576 characters" in refused(bare)


@pytest.mark.usefixtures("frugal")
def test_given_values_do_not_multiply() -> None:
    text = HEAD + "variables: {s: x}\nmodifiers:\n  - {type: prune, targets: ['${s}', '${s}'], sparsity: 0.5}\n"
    assert "more than 1048576 characters" in refused(text, s="y" * 600_000)


@pytest.mark.usefixtures("frugal")
def test_aliases_do_not_multiply() -> None:
    text = HEAD + f"about: &a {'x' * 180_000}\nmodifiers: [" + "*a, " * 15_000 + "]\n"
    assert "bad.yaml:3:" in (said := refused(text))
    assert "more than 1048576 characters (aliases expanded)" in said
    nested = (
        HEAD
        + f"a0: &a0 [{'x' * 60_000}]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    )
    assert "aliases expanded" in refused(nested)


@pytest.mark.usefixtures("frugal")
def test_many_mistakes_are_found_soon() -> None:
    variables = "variables: {" + ", ".join(f"variable_{n}: {n}" for n in range(3_000)) + "}\n"
    lines = "".join(f'  - {{type: prune, targets: "${{varable_{n}}}"}}\n' for n in range(2_000))
    assert "did you mean 'variable_0'" in refused(HEAD + variables + "modifiers:\n" + lines)
    stages = "".join(f"  - {{name: s{n}, length: 1}}\n" for n in range(3_000))
    assert len(Recipe.parse(HEAD + "stages:\n" + stages).stages) == 3_000


# ------------------------------------------------------------------ numbers and text


@pytest.mark.parametrize(
    "text", ["9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 5000, "1" * 41, "1e" + "9" * 50, "-.inf", ".nan", "9e999"]
)
def test_numbers_without_sense(text: str) -> None:
    with pytest.raises(ValueError, match=r"a number of more than|is too large a number|is not a finite number"):
        read_scalar(text)
    assert "bad.yaml:2:" in refused(f"version: 1\nname: {text}\nmodifiers: []\n")


@pytest.mark.parametrize("text", ["0x" + "1" * 41, "0o" + "1" * 41])
def test_no_digit_is_dropped(text: str) -> None:
    with pytest.raises(ValueError, match="more than 40 characters"):
        read_scalar(text)


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), 1e400, float("nan"), "\ud800", None, [1] * 100, {"a": 1}, b"x", object()],
    ids=lambda v: type(v).__name__,
)
def test_given_values_without_sense(value: object) -> None:
    text = HEAD + "variables: {s: 0.5, t: x}\nmodifiers:\n  - {type: prune, targets: '*', sparsity: '${s}'}\n"
    for name in "st":
        assert f"variable {name!r}: " in refused(text, **{name: value})
    with pytest.raises(RecipeError):
        Recipe.parse(text).resolve(s=value)


def test_a_variable_may_be_called_anything() -> None:
    names = ("self", "cls", "text", "name", "path_or_name", "variables")
    text = HEAD + f"variables: {{{', '.join(f'{name}: 0.5' for name in names)}}}\n" + "modifiers:\n" + PRUNE
    for name in names:
        assert Recipe.parse(text, **{name: 0.25}).variables[name].value == 0.25
        assert Recipe.parse(text).resolve(**{name: 0.25}) is not None


def test_bindings_are_no_arguments_of_apply() -> None:
    arguments = set(inspect.signature(Manager.apply).parameters) - {"bindings"}
    assert arguments | {"state"} == set(RESERVED), "and what `attach` takes"
    for name in RESERVED:
        said = refused(f"version: 1\nbindings: {{{name}: {{}}}}\nmodifiers:\n{PRUNE}")
        assert f"bad.yaml:2:12: bindings.{name}: {name!r} is an argument of `apply` itself" in said
        assert f"'my_{name}'" in said


def test_names_of_modifiers_are_unique_whatever_is_written() -> None:
    lines = "".join(
        f"  - {{type: prune, targets: '*', sparsity: 0.5{name}}}\n" for name in ("", ", name: prune-2", "", "")
    )
    assert Recipe.parse(HEAD + "modifiers:\n" + lines).staged()[0].names() == ["prune", "prune-2", "prune-3", "prune-4"]


def test_characters_beyond_the_first_plane_as_json_writes_them() -> None:
    assert Recipe.parse(GOOD + 'name: "\\ud83d\\ude00"\n').name == "😀"


# ------------------------------------------------------------------ selectors


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize(
    "selector",
    ["re:(a+)+b", "re:(a|a)*b", "re:(a|aa)+$", "re:(.*)*.*=.*", "re:" + "(a?){60}a{60}", "re:(x+x+)+y", "*a" * 99 + "b", "*" * 200, "?" * 200,
     "re:" + ".*" * 98, "re:(a|b)*a(a|b){12}", "re:" + "(" * 60 + "a" + ")*" * 60],
)  # fmt: skip
def test_matching_ends(selector: str, capfd: pytest.CaptureFixture[str]) -> None:
    hit, module = matcher(selector[:200]), nn.Identity()
    for name in ("a" * 100_000, "ab" * 50_000, "x" * 100_000, "a" * 100_000 + "b"):
        hit(name, module)
    assert capfd.readouterr().err == ""


@given(st.text(st.sampled_from("abc.*?[]!-\\^é\n"), max_size=9), st.text(st.sampled_from("abc.-]![^\\é\n"), max_size=9))
def test_globs_are_those_of_fnmatch(glob: str, name: str) -> None:
    if "[!" not in glob and not any(f"{b}-{a}" in glob for a, b in zip("abc.", "bcé!", strict=True)):
        assert matcher(glob)(name, nn.Identity()) == fnmatchcase(name, glob), (glob, name)


@given(st.text(max_size=80) | st.text(st.sampled_from("ab()[]{}|*+?.^$\\d,0123pLC:<>P=!#"), max_size=40))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    for selector in (f"re:{text}", f"type:{text}", text or "x"):
        try:
            matcher(selector)("encoder.layer.0", nn.Identity())
        except SelectorError as error:
            assert "is not a regular expression of RE2: " in str(error)


def test_one_language_only() -> None:
    """What Python's own engine would read otherwise."""
    assert matcher(r"re:\pL+")("ab", nn.Identity())
    assert not matcher(r"re:\d")("٣", nn.Identity())
    assert matcher("re:(?i)AB")("ab", nn.Identity())
    assert not matcher("*")("\ud800", nn.Identity())


# ------------------------------------------------------------------ windows


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**6), st.integers(2, 500))
def test_a_sample_of_updates_is_spread_evenly(begin: int, length: int, every: int, most: int) -> None:
    window = StepWindow(begin, begin + length, every)
    steps = list(window.sample(most))
    assert len(steps) == min(most, window.count())
    assert (steps[0], steps[-1]) == (begin, begin + length)
    assert steps == sorted(set(steps))
    assert all(window.due(step) for step in steps)


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("steps", [10**9, 10**15])
def test_a_timeline_of_any_length(steps: int) -> None:
    recipe = Recipe.parse(HEAD + "modifiers:\n" + PRUNE * 50)
    lines = in_text(timeline(recipe, steps, 10**9))
    assert len(lines) == 51
    assert lines[0].endswith("| 50%")


@pytest.mark.usefixtures("frugal")
def test_a_timeline_of_many_modifiers() -> None:
    recipe = Recipe.parse(HEAD + "modifiers:\n" + PRUNE * 2_000)
    assert len(in_text(timeline(recipe, 10**6))) == 2_001


@pytest.mark.parametrize(
    "window",
    [{"begin": "10%", "end": "10%"}, {"begin": 5, "end": "1%"}, {"begin": "0.1%", "end": "0.3%", "every": "0.2%"}, {"begin": "100%"},
     {"begin": 0, "end": "2 epochs", "every": "2 epochs"}, {"end": 1}, {"begin": "1 epoch", "every": "90%"}],
)  # fmt: skip
def test_windows_that_may_be(window: dict[str, object]) -> None:
    Window.model_validate(window)


# ------------------------------------------------------------------ files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("loop.yaml").symlink_to("loop.yaml")
    Path("a.yaml").symlink_to("b.yaml")
    Path("b.yaml").symlink_to("a.yaml")
    Path("dangling.yaml").symlink_to("nowhere.yaml")
    os.mkfifo("pipe.yaml")
    Path("folder.yaml").mkdir()
    Path("binary.yaml").write_bytes(bytes(range(256)) * 10)
    Path("device.yaml").symlink_to("/dev/zero")
    return tmp_path


ODD = {
    "loop.yaml": "is not a path that can be read", "a.yaml": "is not a path that can be read", "dangling.yaml": "no such file",
    "pipe.yaml": "cannot be read: is a pipe or a device, not a recipe", "folder.yaml": "is a folder, not a recipe",
    "binary.yaml": "not UTF-8 text", "device.yaml": "cannot be read: is a pipe or a device, not a recipe",
    "good.yaml/x.yaml": "is not a path that can be read", "x" * 5000 + ".yaml": "is not a path that can be read",
    "\ud800.yaml": "is not a path that can be read", "a\0.yaml": "is not a path that can be read",
}  # fmt: skip


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_no_recipes(name: str) -> None:
    for given_ in (name, Path(name)):
        with pytest.raises(RecipeError) as caught:
            Recipe.load(given_)
        str(caught.value).encode()
    with pytest.raises(RecipeError, match=ODD[name]):
        Recipe.load(name)
    if "\0" not in name and "\ud800" not in name:
        Path("child.yaml").write_text(HEAD + f"extends: {name}\n")
        with pytest.raises(RecipeError, match=r"^\S+\.yaml:\d+:\d+: "):
            Recipe.load("child.yaml")


@pytest.mark.usefixtures("folder")
def test_names_are_found_beside_odd_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        library.VARIABLE, os.pathsep.join(["loop.yaml", "pipe.yaml", "~nobody/x", "/nowhere", "x" * 5000])
    )
    assert "good" in library.names()
    assert Recipe.load("good") == Recipe.load("good.yaml")


def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert Recipe.load("gmp").name == "gmp"


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "- " * 100_000, "? " * 50_000, "[[" * 20 + "{" * 100, "*a " * 1000, "&" * 9999],
)
@pytest.mark.usefixtures("frugal")
def test_deep_nesting_ends(text: str) -> None:
    refused(text)
    refused(HEAD + "modifiers: " + text)
