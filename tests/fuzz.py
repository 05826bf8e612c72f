"""Fuzz the recipe loader: mutate the corpus and good recipes; only a RecipeError may come out, and soon.

    python -m tests.fuzz [SECONDS] [SEED]

Prints how many inputs were tried, how many were valid, and the slowest. Any other exception ends it.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from sparsify import Recipe, RecipeError
from tests.recipe.test_recipe import FULL

LIMIT = 5.0
"""Seconds that one input of a few kilobytes may take."""

HERE = Path(__file__).parent
FRAGMENTS = [
    b"${", b"}", b"${s}", b"${9**9**9}", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"- ", b": ", b"\n",
    b"  ", b"\t", b"{", b"[", b"]", b"'", b'"', b"|", b">", b"%", b"---\n", b"...\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
    b"1e999", b".nan", b"-0", b"0x", b"9" * 50, b"2:4", b"version: 1\n", b"extends: ", b"../", b"re:(a+)+", b"type: ",
    b"prune", b"modifiers:", b"stages:", b"variables:", b"\xc3\xa9", b"\xe2\x80\xa8", b"# ", b"\r\n", b"?", b"null",
]  # fmt: skip


def seeds() -> list[bytes]:
    """Return what mutations start from."""
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


def main(seconds: float, seed: int) -> None:
    """Fuzz for this long."""
    chance, starts = random.Random(seed), seeds()
    tried = valid = 0
    slowest, worst = 0.0, b""
    end = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    while time.monotonic() < end:
        raw = mutate(chance, chance.choice(starts), starts)
        Path("fuzzed.yaml").write_bytes(raw)
        start = time.monotonic()
        try:
            recipe = Recipe.load("fuzzed.yaml")
            assert Recipe.parse(recipe.dump()) == recipe
            assert recipe.resolve().sha256 == recipe.sha256
            valid += 1
        except RecipeError as error:
            assert str(error).strip()
        except BaseException:
            (HERE.parent / "runs").mkdir(exist_ok=True)
            (HERE.parent / "runs" / "fuzzed.yaml").write_bytes(raw)
            print("the input is in runs/fuzzed.yaml", file=sys.stderr)
            raise
        spent = time.monotonic() - start
        tried += 1
        if spent > slowest:
            slowest, worst = spent, raw
    print(f"seed {seed}: {tried:,} inputs, {valid:,} valid, none crashed; slowest {slowest:.2f} s ({len(worst)} bytes)")
    if slowest > LIMIT:
        sys.exit(f"too slow: {worst!r}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 600, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
