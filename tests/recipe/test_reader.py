"""The strict loader: scalars as YAML 1.2 reads them, and the place of every node."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsify import RecipeError
from sparsify.recipe.nodes import Table, locate, plain, show
from sparsify.recipe.reader import read_bytes, read_text
from sparsify.recipe.scalars import read_scalar
from sparsify.recipe.writer import write
from tests.drawn import examples


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-5", 1e-5),
        ("1e-05", 1e-5),
        ("8e-5", 8e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("+3", 3),
        ("-0.5", -0.5),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("10%", "10%"),
        ("500 steps", "500 steps"),
        ("'0.5'", "0.5"),
        ('"on"', "on"),
    ],
)
def test_scalars_mean_what_they_look_like(text: str, value: object) -> None:
    read = plain(read_text(f"key: {text}"))["key"]
    assert read == value
    assert type(read) is type(value)
    assert read_scalar(text) == value


def test_every_node_knows_its_place() -> None:
    root = read_text("a:\n  - b: 1\n    c: [x, y]\n", "f.yaml")
    assert isinstance(root, Table)
    for path, line, column in [(("a",), 1, 1), (("a", 0), 2, 5), (("a", 0, "c"), 3, 5), (("a", 0, "c", 1), 3, 12)]:
        found, mark = locate(root, path)
        assert (found, mark.line, mark.column) == (path, line, column), show(path)


def test_aliases_are_expanded() -> None:
    assert plain(read_text("a: &x {k: [1, 2]}\nb: *x\nc: *x\n")) == {k: {"k": [1, 2]} for k in "abc"}


def test_front_matter_keeps_line_numbers() -> None:
    root = read_text("---\nversion: 1\nname: x\n---\n# Title\n---\nname: not this\n---\n", "f.md", front_matter=True)
    assert plain(root) == {"version": 1, "name": "x"}
    assert locate(root, ("name",))[1].line == 3


KEYS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Co", "Cn"), exclude_characters="\ufeff\u2028\u2029")
)
NUMBERS = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, min_size=1))
@example({"a": "<<"})
@examples(300)
def test_what_is_written_is_read_back(data: dict[str, object]) -> None:
    assert plain(read_text(write(data))) == data


@given(st.binary(max_size=400))
@examples(400)
def test_any_bytes_are_read_or_refused_with_a_place(raw: bytes) -> None:
    _read_or_refuse(raw)


@given(st.text(st.sampled_from("abv:1 -\n[]{}&*!#|>'\"%@`,?~.$0x+_\t<"), max_size=200))
@examples(600)
def test_any_yaml_like_text_is_read_or_refused_with_a_place(text: str) -> None:
    _read_or_refuse(text.encode())


def _read_or_refuse(raw: bytes) -> None:
    try:
        read_bytes(raw, "f.yaml")
    except RecipeError as error:
        assert len(error.problems) == 1
        mark = error.problems[0].mark
        assert mark is not None
        assert mark.line >= 1
        assert mark.column >= 1
