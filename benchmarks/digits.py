"""Every curated recipe on real images, and a small ResNet: accuracy on the digits that are held out.

The demo's set-up: 40 epochs densely from scratch, then 40 again from those weights under the recipe; the same dense
model for all recipes of a seed. `again` is the dense model trained on without a recipe: what the second training
alone is worth.

    python benchmarks/digits.py [--model vit|resnet] [--only NAME …] [--seeds 0 1 2] [--epochs 40]
        [--sparsity S] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

from sparsify import Manager, Recipe
from sparsify.benchmarking.machine import machine
from sparsify.demo.resnet import resnet
from sparsify.demo.task import accuracy, digits, vit
from sparsify.demo.training import train
from sparsify.recipe.library import names

NOT_OURS = ("demo", "lock", "channels-coupled")
"""Built-in recipes that are for no small ViT."""

FILTERS = """
version: 1
name: filters 50 %
modifiers:
  - {type: prune, pattern: filter, sparsity: 0.5, window: {begin: 5%, end: 70%, every: 10}}
"""


def cases(model: str, sparsity: float | None) -> dict[str, Recipe]:
    """Return the recipes to try, by what they are called in the table; all with a sparsity at another one."""
    if model == "resnet":
        return {
            "unstructured 90 % (`gmp`)": Recipe.load("gmp", sparsity=0.9),
            "unstructured 90 %, global (`gmp-global`)": Recipe.load("gmp-global", sparsity=0.9),
            "filters 50 %": Recipe.parse(FILTERS),
            "input channels 30 % (`channels`)": Recipe.load("channels"),
            "coupled channels 50 % (`channels-coupled`)": Recipe.load("channels-coupled"),
            "2:4 (`2-4`)": Recipe.load("2-4"),
        }
    ours = (name for name, (label, _) in names().items() if label == "built in" and name not in NOT_OURS)
    recipes = {name: Recipe.load(name) for name in sorted(ours)}
    if sparsity is None:
        return recipes
    return {name: Recipe.load(name, sparsity=sparsity) for name, r in recipes.items() if "sparsity" in r.variables}


def main() -> None:
    """Train and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vit", "resnet"], default="vit")
    parser.add_argument("--only", nargs="*", help="parts of names of cases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--sparsity", type=float, help="instead of the recipes' own")
    parser.add_argument("--json", type=Path, help="write the figures to a file")
    arguments = parser.parse_args()
    data = digits()
    build = {"vit": vit, "resnet": resnet}[arguments.model]
    found: dict[str, list[float]] = {}
    density: dict[str, float] = {}
    for seed in arguments.seeds:
        dense = build(seed)
        train(dense, data, arguments.epochs, seed)
        found.setdefault("dense", []).append(accuracy(dense, data[1]))
        for name, recipe in {"again": None, **cases(arguments.model, arguments.sparsity)}.items():
            if arguments.only and not any(part in name for part in arguments.only):
                continue
            start = time.perf_counter()
            model = copy.deepcopy(dense)
            manager = Manager(recipe) if recipe is not None else None
            train(model, data, arguments.epochs, seed + 1, manager)
            density[name] = manager.finalize().targeted.density if manager else 1.0
            found.setdefault(name, []).append(accuracy(model, data[1]))
            shown = f"{found[name][-1]:.2%} (dense {found['dense'][-1]:.2%})"
            print(f"seed {seed}: {name}: {shown}, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{machine()}\n| recipe | non-zero | accuracy, seeds {arguments.seeds} | mean |\n|---|---|---|---|")
    for name, values in found.items():
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        print(f"| {name} | {density.get(name, 1.0):.1%} | {each} | {sum(values) / len(values):.2%} |")
    if arguments.json:
        figures = {name: {"accuracy": values, "density": density.get(name, 1.0)} for name, values in found.items()}
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
