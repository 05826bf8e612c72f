"""What is found in many models, as the table of docs/models.md: families, heads, neurons, what `default` covers.

    python benchmarks/models.py ZOO.py > table.md

ZOO.py is a module with `ZOO`: name → function that returns (model, function that returns a loss). Models are tiny, made
of configurations, with random weights.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sparsify.anatomy import Anatomy, read
from sparsify.anatomy.told import told


def offered(anatomy: Anatomy, blocks: list[Any], units: str) -> str:
    """Return whether heads or neurons are offered: `yes`, `–` where there are none, or the reason."""
    doubts = {block.doubt for block in blocks if block.doubt}
    if not blocks:
        return "–"
    kinds = "declared" if not anatomy.inferred else "verified"
    return kinds if not doubts else f"no {units}: {'; '.join(sorted(doubts))}"


def row(name: str, model: torch.nn.Module) -> tuple[str, bool, bool]:
    """Return a line of the table, whether the model is covered whole, and whether everything in it is offered."""
    begun = time.perf_counter()
    anatomy = read(model)
    seconds = time.perf_counter() - begun
    if anatomy is None:
        return f"| {name} | – | – | – | – | 0 % | {seconds:.1f} |", False, False
    data = told(model, anatomy)
    share = data["coverage"]["covered"] / max(data["coverage"]["total"], 1)
    missed = ", ".join(each["name"] for each in data["coverage"]["missed"][:2])
    whole = data["coverage"]["covered"] == data["coverage"]["total"]
    heads = offered(anatomy, anatomy.attentions, "heads")
    neurons = offered(anatomy, anatomy.feed_forwards, "neurons")
    families = ", ".join(
        f"{family}{' (inferred)' if family in anatomy.inferred else ''}" for family in anatomy.families
    )
    covered = "100 %" if whole else f"{share:.1%} (not {missed})"
    line = f"| {name} | {families} | {len(anatomy.layers)} | {heads} | {neurons} | {covered} | {seconds:.1f} |"
    return line, whole, not data["doubts"]


def zoo_of(file: str) -> dict[str, Any]:
    """Return the models of a module, by name."""
    path = Path(file)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.ZOO
    return found


def main() -> None:
    lines, wholes, offers = [], 0, 0
    for name, make in zoo_of(sys.argv[1]).items():
        try:
            model, _ = make()
        except Exception as error:  # a builder for another version of the library
            print(f"{name}: cannot be built here ({type(error).__name__})", file=sys.stderr)
            continue
        line, whole, all_offered = row(name, model)
        lines.append(line)
        wholes, offers = wholes + whole, offers + all_offered
    print("| model | families | layers | heads | neurons | `default` covers | seconds |\n|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    print(f"\n{len(lines)} models: {wholes} covered whole, {offers} with everything that they have offered.")


if __name__ == "__main__":
    main()
