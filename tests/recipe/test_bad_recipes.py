"""Every hostile or mistaken recipe gives exactly the message that stands beside it in the corpus."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparsify import Recipe, RecipeError

CORPUS = Path(__file__).with_name("bad_recipes.txt").read_text(encoding="utf-8")
CASES = [case.partition("\n") for case in CORPUS.split("=== ")[1:]]

GOOD = b'version: 1\nmodifiers:\n  - {type: prune, targets: "*", sparsity: 0.5}\n'

BYTES = {
    "utf-16": (GOOD.decode().encode("utf-16"), "bad.yaml:1:1: encoded as UTF-16; save it as UTF-8"),
    "utf-16-be": (b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), "bad.yaml:1:1: encoded as UTF-16; save it as UTF-8"),
    "latin-1": ("version: 1\nname: Müller\n".encode("latin-1"), "bad.yaml:2:8: not UTF-8 text; save it as UTF-8"),
    "nul": (b"version: 1\nname: a\0b\n", "bad.yaml:2:8: the character U+0000 is not allowed"),
    "escape": (b"version: 1\nname: \x1b[31m\n", "bad.yaml:2:7: the character U+001B is not allowed"),
    "ten-megabytes": (b"#" * 10_000_000, "bad.yaml:1:1: larger than 1048576 bytes: not a recipe"),
    "a-megabyte-and-one": (GOOD + b"#" * (1 << 20), "bad.yaml:1:1: larger than 1048576 bytes: not a recipe"),
    "crlf": (
        b'version: 1\r\nmodifiers:\r\n  - type: prune\r\n    target: "*"\r\n    sparsity: 0.5\r\n',
        "bad.yaml:4:5: modifiers[0].target: unknown key 'target' (did you mean 'targets'?)",
    ),
    "byte-order-mark": (
        b"\xef\xbb\xbfversin: 1\n" + GOOD,
        "bad.yaml:1:1: versin: unknown key 'versin' (did you mean 'version'?)",
    ),
    "deep-lists": (b"version: 1\nname: " + b"[" * 100_000, "bad.yaml:2:70: nested deeper than 64 levels"),
    "deep-mappings": (b"version: 1\nname: " + b"{a: " * 10_000, "bad.yaml:2:256: nested deeper than 64 levels"),
    "deep-blocks": (
        b"version: 1\n" + b"".join(b" " * i + b"a:\n" for i in range(200)),
        "bad.yaml:65:64: nested deeper than 64 levels",
    ),
    "deep-by-aliases": (
        b"version: 1\na0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 80)),
        "bad.yaml:64:12: nested deeper than 64 levels",
    ),
    "too-many-values": (
        b"version: 1\nname: [" + b"1," * 30_000 + b"1]",
        "bad.yaml:2:39998: more than 20000 values (aliases expanded): not a recipe",
    ),
    "huge-directive": (
        b"%YAML " + b"9" * 5000 + b".1\n---\nversion: 1\n",
        "bad.yaml:1:1: not YAML: a number or an escape out of range after here",
    ),
    "huge-escape": (
        b'version: 1\nname: "\\UFFFFFFFF"\n',
        "bad.yaml:2:5: not YAML: a number or an escape out of range after here",
    ),
    "nul-in-a-path": (b'version: 1\nextends: "a\\0b.yaml"\n', "bad.yaml:2:10: extends: not a path"),
    "endless-path": (b"version: 1\nextends: " + b"a" * 5000 + b".yaml\n", "bad.yaml:2:10: extends: not a path"),
    "endless-number": (
        b"version: 1\nname: " + b"9" * 100_000,
        "bad.yaml:2:7: a number of more than 40 characters",
    ),
}


@pytest.mark.parametrize(("name", "rest"), [(name, rest) for name, _, rest in CASES], ids=[c[0] for c in CASES])
def test_the_message_is_exact(name: str, rest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, _, expected = rest.partition("--- expect\n")
    Path("bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        Recipe.load("bad.yaml")
    assert str(error.value) == expected.rstrip("\n")


@pytest.mark.parametrize("name", BYTES)
def test_the_message_for_raw_bytes_is_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw, expected = BYTES[name]
    Path("bad.yaml").write_bytes(raw)
    start = time.process_time()
    with pytest.raises(RecipeError) as error:
        Recipe.load("bad.yaml")
    assert str(error.value) == expected
    assert time.process_time() - start < 30, "hostile input must not cost minutes"


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) + len(BYTES) >= 80


def test_a_circle_of_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        Path(f"{name}.yaml").write_text(f"version: 1\nextends: {parent}.yaml\n")
    with pytest.raises(RecipeError, match=r"c\.yaml:2:10: extends: a circle: a\.yaml → b\.yaml → c\.yaml → a\.yaml"):
        Recipe.load("a.yaml")


def test_a_recipe_that_extends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("version: 1\nextends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"a circle: a\.yaml → a\.yaml"):
        Recipe.load("a.yaml")


def test_a_long_chain_of_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        Path(f"r{number}.yaml").write_text(f"version: 1\nextends: r{number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="a chain of more than 16 recipes"):
        Recipe.load("r0.yaml")


def test_a_link_out_of_the_folder_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("version: 1\nmodifiers: []\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (inside / "a.yaml").write_text("version: 1\nextends: link.yaml\n")
    with pytest.raises(RecipeError, match=r"'link\.yaml' leaves the folder of the recipe"):
        Recipe.load(inside / "a.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.yaml", "missing.yaml: no such file"),
        ("presnt.yaml", "presnt.yaml: no such file (did you mean 'present.yaml'?)"),
        ("folder.yaml", "folder.yaml:1:1: cannot be read: is a folder, not a recipe"),
        ("presentt", "no recipe is called 'presentt' (did you mean 'present'?); looked in: working folder, built in"),
    ],
)
def test_a_path_is_never_taken_for_a_recipe(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("present.yaml").write_bytes(GOOD)
    Path("folder.yaml").mkdir()
    with pytest.raises(RecipeError) as error:
        Recipe.load(name)
    assert str(error.value) == message


def test_markdown_without_front_matter(tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    path.write_text("# A model card\n\n---\nversion: 1\n---\n")
    with pytest.raises(RecipeError, match="a Markdown recipe begins with `---`"):
        Recipe.load(path)
    path.write_text("---\nversion: 1\n\n# A model card\n")
    with pytest.raises(RecipeError, match="never closed"):
        Recipe.load(path)
