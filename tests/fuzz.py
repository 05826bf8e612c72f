"""Fuzz everything that reads what others wrote: only a SparsifyError may come out, soon, and fit for a terminal.

    python -m tests.fuzz [--seconds 600] [--seed 0] [--kind KIND]

The kinds take turns. Prints for each how many inputs were tried, how many were taken, and the slowest. Any other
exception ends it; the input is then in `runs/`.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save
from torch import nn
from typer.testing import CliRunner

from sparsify import Recipe, RecipeError
from sparsify.cli.app import app
from sparsify.cli.console import Terminal
from sparsify.errors import SparsifyError
from sparsify.files import read_json
from sparsify.modifiers.span import ClockError
from sparsify.recipe.expression import ExpressionError, substitute
from sparsify.recipe.scalars import read_scalar
from sparsify.report.difference import documents, weights
from sparsify.report.findings import findings
from sparsify.report.page import page
from sparsify.report.saved import find
from sparsify.report.timeline import in_text, timeline
from sparsify.report.written import read_written
from sparsify.selectors import matcher
from tests import hostile
from tests.recipe.test_recipe import FULL

LIMIT = 5.0
"""Seconds that one input may take."""
LONGEST = 300_000
"""Characters that an error may have."""

HERE = Path(__file__).parent
FRAGMENTS = [
    b"${", b"}", b"${s}", b"${9**9**9}", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"- ", b": ", b"\n",
    b"  ", b"\t", b"{", b"[", b"]", b"'", b'"', b"|", b">", b"%", b"---\n", b"...\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
    b"1e999", b".nan", b"-0", b"0x", b"9" * 50, b"2:4", b"version: 1\n", b"extends: ", b"../", b"re:(a+)+", b"type: ",
    b"prune", b"modifiers:", b"stages:", b"variables:", b"\xc3\xa9", b"\xe2\x80\xa8", b"# ", b"\r\n", b"?", b"null",
    b"\xed\xa0\x80", b'"\\ud800"', b'"\\e[31m"', b"[/red]", b"$\\frac{$", b"0777", b"0o17",
]  # fmt: skip
NAMES = ("encoder.layer.0.attention.self.query", "a" * 2000, "x" * 500 + "b", "", "é", "\ud800", "a.b\n")
REPORT: dict[str, Any] = {
    "training": {"steps": 3, "seconds": 1.5, "metrics": {"accuracy": 0.5}},
    "history": [{"step": 1, "sparsity": 0.5, "eval_accuracy": 0.5, "loss": 1}],
    "modifiers": {"prune": {"sparsity_at_threshold": 0.1, "sparsity": 0.2, "lambda": {"a": 1.0},
                                 "metrics": {"at_threshold": {"loss": 1.0}, "after": {"loss": 2.0}}}, "fill": {"returned": 3}},
    "plan": {"total_steps": 3, "steps_per_epoch": 2, "modifiers": [{"key": "a", "begin": 1, "tensors": [{"name": "w", "shape": [1, 2]}]}]},
}  # fmt: skip


def seeds() -> list[bytes]:
    """Return the recipes that mutations start from."""
    corpus = (HERE / "recipe" / "bad_recipes.txt").read_bytes().split(b"=== ")[1:]
    texts = [case.partition(b"\n")[2].partition(b"--- expect")[0] for case in corpus]
    good = [FULL.encode(), *(path.read_bytes() for path in (HERE.parent / "recipes").glob("*.yaml"))]
    return texts + good * 40


def mutate(chance: random.Random, text: bytes, others: list[bytes]) -> bytes:
    """Return `text` with a few cuts, repeats, splices, flips and fragments."""
    for _ in range(chance.choice([1, 1, 2, 6])):
        at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        kind = chance.randrange(6)
        if kind == 0:
            text = text[:at] + text[to:]
        elif kind == 1:
            text = text[:to] + text[at:to] * chance.randint(1, 20) + text[to:]
        elif kind == 2:
            other = chance.choice(others)
            text = text[:at] + other[chance.randint(0, len(other)) :]
        elif kind == 3 and text:
            text = text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
        else:
            text = text[:at] + chance.choice(FRAGMENTS) * chance.choice([1, 1, 1, 2, 100]) + text[at:]
    return text[:20_000]


# ------------------------------------------------------------------ what is done with an input


def load_recipe(raw: bytes) -> None:
    """Load, dump, read back, resolve, hash, lay out over a run, match names."""
    Path("fuzzed.yaml").write_bytes(raw)
    recipe = Recipe.load("fuzzed.yaml")
    assert Recipe.parse(recipe.dump()) == recipe
    assert recipe.resolve().sha256 == recipe.sha256
    for steps in (None, 10**12):
        try:
            assert all(map(hostile.harmless, in_text(timeline(recipe, steps))))
        except ClockError as error:
            assert str(error)
    for stage in recipe.staged():
        for modifier in stage.modifiers:
            modifier.explain()
            for selector in getattr(modifier, "targets", None) or ():
                match_names(selector.encode("utf-8", "surrogatepass"))


def match_names(raw: bytes) -> None:
    """Match a selector with names."""
    hit = matcher(raw.decode("utf-8", "surrogatepass"))
    for name in NAMES:
        hit(name, nn.Identity())


def evaluate(raw: bytes) -> None:
    """Evaluate expressions, and read a scalar."""
    text = raw.decode("utf-8", "surrogatepass")
    try:
        read_scalar(text)
        substitute(text, {"s": 0.5, "t": "x" * 1000, "u": True})
    except ExpressionError as error:
        raise RecipeError(str(error)) from None
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise RecipeError(str(error)) from None


def read_report(raw: bytes) -> None:
    """Read a `report.json`, and compare it as a plan."""
    Path("report.json").write_bytes(raw)
    documents(read_json("report.json"), REPORT)
    written = read_written(Path("report.json"))
    findings(written)
    list(written.points("eval_accuracy"))


def read_index(raw: bytes) -> None:
    """Read the index of several files of weights."""
    Path("model.safetensors.index.json").write_bytes(raw)
    find(".")


def read_weights(raw: bytes) -> None:
    """Count and compare tensors."""
    path = Path("w.bin" if raw.startswith(b"PK") else "w.safetensors")
    path.write_bytes(raw)
    saved = find(path)
    weights(saved, saved)


def show(raw: bytes) -> None:
    """Show text on a terminal and in a page."""
    text = raw.decode("utf-8", "surrogatepass")
    console: Console = Terminal(file=io.StringIO(), width=60)
    console.print(text)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert hostile.harmless(written), ascii(written)
    assert hostile.harmless(page(text, text, [((text,), [(text,)])], "<svg></svg>", [(text, text)]))
    raise SparsifyError(f"it says {text}")


def run_commands(raw: bytes) -> None:
    """Run commands on a recipe."""
    Path("fuzzed.yaml").write_bytes(raw)
    refused = False
    for words in (["validate", "fuzzed.yaml"], ["validate", "--json", "fuzzed.yaml"], ["explain", "fuzzed.yaml"],
                  ["recipes", "show", "fuzzed.yaml"], ["diff", "fuzzed.yaml", "gmp"]):  # fmt: skip
        done = CliRunner().invoke(app, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code in (0, 1), words
        assert hostile.harmless(done.output), ascii(done.output)
        assert done.exit_code == 0 or done.output.strip()
        refused = refused or done.exit_code == 1
    if refused:
        raise RecipeError("refused")


@dataclass
class Kind:
    """A kind of input: how one is made, what is done with it, and how that went so far."""

    make: Callable[[random.Random], bytes]
    use: Callable[[bytes], None]
    tried: int = 0
    taken: int = 0
    slowest: float = 0.0
    worst: bytes = b""

    def once(self, chance: random.Random) -> None:
        """Try one input."""
        raw = self.make(chance)
        self.worst, before = raw, self.worst
        start = time.monotonic()
        try:
            self.use(raw)
            self.taken += 1
        except SparsifyError as error:
            text = str(error)
            assert text.strip()
            assert len(text) < LONGEST
            assert hostile.harmless(text), ascii(text)
        spent = time.monotonic() - start
        self.tried += 1
        if spent < self.slowest:
            self.worst = before
        self.slowest = max(self.slowest, spent)


def kinds() -> dict[str, Kind]:
    """Return every kind of input."""
    starts = seeds()
    tensors = {
        "a.weight": torch.eye(3),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.zeros(2, 2).to(torch.float8_e5m2),
    }
    flat = save(tensors)
    pickled = io.BytesIO()
    torch.save(tensors, pickled)

    def text(make: Callable[[random.Random], str]) -> Callable[[random.Random], bytes]:
        return lambda chance: make(chance).encode("utf-8", "surrogatepass")

    def expression(chance: random.Random) -> str:
        return hostile.some(
            chance, [*("${" + text + "}" for text in hostile.EXPRESSIONS), *hostile.NUMBERS, *hostile.MARKUP], 3
        )

    return {
        "mutated recipes": Kind(lambda chance: mutate(chance, chance.choice(starts), starts), load_recipe),
        "hostile recipes": Kind(hostile.recipe, load_recipe),
        "selectors": Kind(text(hostile.selector), match_names),
        "expressions": Kind(text(expression), evaluate),
        "reports": Kind(lambda chance: hostile.json_bytes(chance, REPORT), read_report),
        "indices": Kind(lambda chance: hostile.json_bytes(chance, {"weight_map": {"a": "report.json"}}), read_index),
        "weights": Kind(
            lambda chance: hostile.flipped(chance, chance.choice([flat, pickled.getvalue()])), read_weights
        ),
        "text": Kind(text(hostile.nasty), show),
        "commands": Kind(hostile.recipe, run_commands),
    }


def odd_folder(folder: Path) -> None:
    """Make a folder with files that are none, and go there."""
    os.chdir(folder)
    Path("loop.yaml").symlink_to("loop.yaml")
    os.mkfifo("pipe.yaml")
    Path("report.json").touch()


def main(seconds: float, seed: int, only: str | None = None) -> None:
    """Fuzz for this long."""
    chance, chosen = random.Random(seed), {name: kind for name, kind in kinds().items() if only in (None, name)}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        odd_folder(Path(folder))
        while time.monotonic() < end:
            for name, kind in chosen.items():
                until = time.monotonic() + min(seconds / 50, 1.0)
                try:
                    while time.monotonic() < until:
                        kind.once(chance)
                except BaseException:
                    (HERE.parent / "runs").mkdir(exist_ok=True)
                    (HERE.parent / "runs" / "fuzzed").write_bytes(kind.worst)
                    print(f"{name}: the input is in runs/fuzzed", file=sys.stderr)
                    raise
        os.chdir(HERE)
    for name, kind in chosen.items():
        worst = f"slowest {kind.slowest:.2f} s ({len(kind.worst)} bytes)"
        print(f"{name:<16} {kind.tried:>9,} inputs, {kind.taken:>8,} taken, none crashed; {worst}")
    print(f"seed {seed}: {sum(kind.tried for kind in chosen.values()):,} inputs in {seconds:.0f} s")
    slow = [name for name, kind in chosen.items() if kind.slowest > LIMIT]
    if slow:
        sys.exit(f"too slow: {', '.join(slow)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(kinds()))
    asked = parser.parse_args()
    main(asked.seconds, asked.seed, asked.kind)
