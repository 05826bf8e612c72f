"""The last part of every method page: the recipe as it is, the command to copy, and the picture of a short training.

`make schema` runs it; a test holds the pages fresh.

    python benchmarks/method_pages.py
"""

from __future__ import annotations

import re
from pathlib import Path

from sparsify import Recipe
from sparsify.recipe.library import names

PAGES = Path(__file__).parents[1] / "docs" / "methods"
BEGIN, END = "<!-- written by `make schema` from here … -->", "<!-- … to here -->"
_PART = re.compile(rf"\n*{re.escape(BEGIN)}.*{re.escape(END)}\n*", re.DOTALL)

TEXT = "--task text-classification --model path/or/name --train train.tsv --eval dev.tsv"
IMAGES = "--task image-classification --model path/or/name --train images/train --eval images/eval"
DATA = {"channels-coupled": IMAGES}
FROM_SPARSE = ("lock", "sparse-transfer")
"""Recipes for models that are sparse already."""

CAPTION = (
    "One short training, made by `benchmarks/method_runs.py`, drawn by `benchmarks/method_pictures.py`: {network} on "
    "1,347 digits, five epochs from a model that was trained densely for ten, seed 0. It shows *what* the method does; "
    "how well it does stands under **Measured**."
)


def recipe_text(name: str) -> str | None:
    """Return a built-in recipe as a page shows it, without what is for machines; None where there is none."""
    found = names().get(name)
    if found is None:
        return None
    text = Path(found[1]).read_text(encoding="utf-8")
    text = re.sub(r"\A# yaml-language-server:.*\n", "", text)
    return re.sub(r"^about:\n(?: .*\n)+", "", text, flags=re.MULTILINE)


def command(name: str) -> str:
    """Return the command that trains by the recipe of a page."""
    given = DATA.get(name, TEXT)
    if name in FROM_SPARSE:
        given = given.replace("path/or/name", "runs/sparse")
    recipe = name if name in names() else "mine.yaml"
    teacher = " --teacher runs/dense" if recipe == name and "teacher" in Recipe.load(name).needs() else ""
    return f"sparsify train {given} --recipe {recipe}{teacher} --out runs/{name}"


def part(name: str) -> str:
    """Return the last part of a page."""
    text, line = recipe_text(name), command(name)
    lines = [BEGIN, ""]
    if text is not None:
        lines += ["## The recipe", "", "```yaml", text.rstrip(), "```", ""]
    lines += ["## The command", "", "```bash", line, "```", "", _told(name, line), ""]
    network = "a small ResNet" if name == "channels-coupled" else "the demo's small ViT"
    lines += ["## A picture", "", f"[![{_alt(name)}](pictures/{name}.svg)](pictures/{name}.svg)", ""]
    return "\n".join([*lines, CAPTION.format(network=network), "", END, ""])


def _told(name: str, line: str) -> str:
    """Return what there is to know about the command."""
    words = []
    if "mine.yaml" in line:
        words.append("`mine.yaml` is the recipe above, in a file.")
    if "--teacher" in line:
        words.append("`runs/dense` is a model that was trained on the same task: the same command without a recipe.")
    if "runs/sparse" in line:
        words.append("`runs/sparse` is a sparse model, as `--recipe gmp` leaves it.")
    if name in names():
        if Recipe.load(name).variables:
            words.append("`--set NAME=VALUE` sets a variable of the recipe.")
        words.append(f'In code: `Manager.from_recipe("{name}")`, `SparsifyCallback("{name}")`.')
    return " ".join([*words, "Afterwards: `sparsify report` of the folder."])


def _alt(name: str) -> str:
    return f"{name}: which weights are left, accuracy and sparsity over the steps, and the zeros of every matrix"


def page(name: str, text: str) -> str:
    """Return a page with its last part as it must be."""
    return f"{_PART.sub('', text).rstrip()}\n\n{part(name)}"


def main() -> None:
    """Write the pages."""
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(page(path.stem, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
