"""Every curated recipe on every model of a zoo: planned, or refused in a sentence. A traceback would end the run.

    python benchmarks/portability.py ZOO.py [MODEL …] > table.md

ZOO.py is as for models.py.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections import Counter
from importlib.resources import files

from models import zoo_of

from sparsify import Plan, Recipe, SparsifyError

STEPS = 10_000
KINDS = (
    ("sizes that it does not fit (the models are tiny)", r"not divide|would join groups|at most [\d.]+ can be pruned"),
    (
        "layers that cannot go, or several stacks",
        r"cannot keep|stacks of layers|cannot be removed|would be loaded|no model can|has no layers|are no list",
    ),
    ("heads or neurons that are not their own", r"heads cannot be pruned|neurons cannot be pruned"),
    ("a role that the model lacks", r"has no '|no attention block|no ffn block|is in no"),
    ("channels that cannot be coupled", r"channels"),
    ("frozen weights, which learn no scores", r"is frozen|no gradient"),
    ("norms and activations that have no substitute", r"neither w|NoNorm|activation|norms?"),
)


def reason(message: str) -> str:
    """Return the kind of a refusal."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, message)), message.splitlines()[0][:120])


def main() -> None:
    warnings.simplefilter("ignore")
    only, begun = sys.argv[2:], time.perf_counter()
    recipes = sorted(path.name[:-5] for path in files("sparsify.recipes").iterdir() if path.name.endswith(".yaml"))
    planned: Counter[str] = Counter()
    refused: dict[str, Counter[str]] = {name: Counter() for name in recipes}
    models = [(name, make) for name, make in zoo_of(sys.argv[1]).items() if not only or name in only]
    for name, make in models:
        try:
            model, _ = make()
        except Exception as error:  # a builder for another version of the library
            print(f"{name}: cannot be built here ({type(error).__name__})", file=sys.stderr)
            continue
        for recipe in recipes:
            try:
                Plan.of(Recipe.load(recipe), model, total_steps=STEPS)
                planned[recipe] += 1
            except SparsifyError as error:
                refused[recipe][reason(str(error))] += 1
    print("| recipe | planned | refused, by reason |\n|---|---|---|")
    for recipe in recipes:
        why = "; ".join(f"{count} {kind}" for kind, count in refused[recipe].most_common())
        print(f"| `{recipe}` | {planned[recipe]} | {why or '–'} |")
    total = sum(sum(each.values()) for each in refused.values())
    print(f"\n{planned.total()} plans, {total} refusals, no traceback; {time.perf_counter() - begun:.0f} s.")


if __name__ == "__main__":
    main()
