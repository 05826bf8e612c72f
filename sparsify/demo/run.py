"""The demo from beginning to end: train dense, train sparse, measure both, write it all down."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify.checkpoint import write_text, write_whole
from sparsify.compaction import compact
from sparsify.demo.sides import Side, sides
from sparsify.demo.table import HEADER, rows
from sparsify.demo.task import digits, vit
from sparsify.demo.training import WARM_UP, History, train
from sparsify.manager import Manager
from sparsify.plan import Plan
from sparsify.progress import task
from sparsify.recipe import Recipe
from sparsify.report.curves import Curves
from sparsify.report.folder import read
from sparsify.report.page import page
from sparsify.report.picture import draw

LEAD = (
    "A small vision transformer on scikit-learn's digits (1,797 real images, a quarter held out). The dense model "
    "is trained from scratch; the sparse one starts from its weights and is trained as long again, under the recipe. "
    "So is the compact one: half of its heads and three quarters of its neurons are pruned, then removed."
)

START = "Its learning rate starts again and rises until step {}, which costs accuracy before anything is pruned."
"""What must be known to read the curve of accuracy."""

COMPACT: dict[str, Any] = {"heads": 0.5, "neurons": 0.75, "equal": True}
"""Variables of the recipe of the compact model; as many in every layer, so that stock transformers loads it."""


@dataclass(frozen=True)
class Outcome:
    """What the demo shows and writes."""

    plan: Plan
    dense: Side
    sparse: Side
    compact: Side
    history: History

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, see `table.HEADER`."""
        return rows(self.dense, self.sparse, self.compact)


def run(
    recipe: Recipe,
    directory: Path,
    *,
    epochs: int,
    seed: int,
    show_plan: Callable[[Plan], None] = lambda plan: None,
) -> Outcome:
    """Run the demo and write `directory`: both models, the resolved recipe, report, picture and page.

    Raises PlanError before anything is trained if the recipe does not fit.
    """
    data = digits()
    model = vit(seed)
    plan = Plan.of(recipe, model, steps_per_epoch=data[0].steps, epochs=epochs)
    show_plan(plan)
    with _watched("dense", epochs * data[0].steps) as on_step:
        train(model, data, epochs, seed, on_step=on_step)
    dense = copy.deepcopy(model)
    manager = Manager(recipe)
    with _watched("sparse", epochs * data[0].steps) as on_step:
        history = train(model, data, epochs, seed + 1, manager, on_step)
    manager.finalize(directory)
    narrow = copy.deepcopy(dense)
    structured = Manager.from_recipe("heads-and-neurons", **COMPACT)
    with _watched("compact", epochs * data[0].steps) as on_step:
        train(narrow, data, epochs, seed + 2, structured, on_step)
    structured.finalize()
    models = {"dense": dense, "sparse": model, "compact": compact(narrow.eval())}
    first, second, third = sides(models, plan.targeted(), data[1], directory)
    outcome = Outcome(plan, first, second, third, history)
    _write(outcome, directory)
    return outcome


@contextmanager
def _watched(label: str, steps: int) -> Iterator[Callable[[float, float], None]]:
    """Yield what is to be called with loss and sparsity after every step."""
    with task(f"training the {label} model", steps) as advance:
        yield lambda loss, sparsity: advance(1, f"loss {loss:.3f}, sparsity {sparsity:.1%}")


def _write(outcome: Outcome, directory: Path) -> None:
    report = json.loads((directory / "report.json").read_text())
    report |= {"dense": outcome.dense.to_dict(), "sparse": outcome.sparse.to_dict()}
    report |= {"compact": outcome.compact.to_dict(), "note": LEAD}
    write_text(directory / "report.json", json.dumps(report, indent=2) + "\n")
    title = f"sparsify demo: {outcome.plan.recipe.name}"
    history = outcome.history
    target = [(step, value) for step, value in enumerate(history.target, 1) if value is not None]
    sparsity = list(enumerate(history.sparsity, 1))
    note = START.format(round(WARM_UP * len(sparsity)))
    curves = Curves(sparsity, target, history.accuracy, reference=outcome.dense.accuracy, note=note)
    counted = read(directory / "sparse").census
    picture = draw(title, curves, counted.tensors, counted.grid)
    write_whole(directory / "picture.png", lambda file: file.write(picture.png))
    sections = (("Plan", str(outcome.plan)), ("Recipe, resolved", (directory / "recipe.yaml").read_text()))
    text = page(title, LEAD, [(HEADER, outcome.rows())], picture.svg, sections)
    write_text(directory / "index.html", text)
