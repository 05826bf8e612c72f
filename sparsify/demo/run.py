"""The demo from beginning to end: train dense, train sparse, measure both, write it all down."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsify.checkpoint import write_text, write_whole
from sparsify.demo.task import accuracy, digits, vit
from sparsify.demo.training import History, train
from sparsify.density import Density, measure
from sparsify.manager import Manager
from sparsify.plan import Plan
from sparsify.recipe import Recipe
from sparsify.report.latency import interleaved
from sparsify.report.page import page
from sparsify.report.picture import Curves, draw
from sparsify.report.size import Size, size_of

LEAD = (
    "A small vision transformer on scikit-learn's digits (1,797 real images, a quarter held out). The dense model "
    "is trained from scratch; the sparse one starts from its weights and is trained as long again, under the recipe."
)

Progress = Callable[[str, int], Any]


@dataclass(frozen=True)
class Side:
    """What was measured of one model."""

    accuracy: float
    density: Density
    size: Size
    milliseconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "accuracy": self.accuracy,
            "density": self.density.to_dict(),
            "bytes": self.size.to_dict(),
            "latency_ms": self.milliseconds,
        }


@dataclass(frozen=True)
class Outcome:
    """What the demo shows and writes."""

    plan: Plan
    dense: Side
    sparse: Side
    history: History

    def header(self) -> tuple[str, ...]:
        """Return the columns of the table."""
        return ("", "dense", "sparse", "what it says")

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: name, dense, sparse, and an honest word."""
        dense, sparse = self.dense, self.sparse
        points = 100 * (sparse.accuracy - dense.accuracy)
        return [
            (
                "accuracy",
                f"{dense.accuracy:.2%}",
                f"{sparse.accuracy:.2%}",
                f"{points:+.2f} points, held-out images",
            ),
            _weights("targeted weights ≠ 0", dense.density.targeted, sparse.density.targeted),
            _weights("whole model ≠ 0", dense.density.model, sparse.density.model),
            (
                "file, raw",
                _bytes(dense.size.raw),
                _bytes(sparse.size.raw),
                "a dense format stores every zero",
            ),
            (
                "file, zstd",
                _bytes(dense.size.zstd),
                _bytes(sparse.size.zstd),
                f"{dense.size.zstd / sparse.size.zstd:.1f}× smaller to send or keep",
            ),
            (
                "latency, 64 images",
                f"{dense.milliseconds:.2f} ms",
                f"{sparse.milliseconds:.2f} ms",
                "no speed-up expected: torch multiplies unstructured zeros too",
            ),
        ]


def _weights(name: str, dense: Any, sparse: Any) -> tuple[str, ...]:
    return (name, f"{dense.nonzeros:,}", f"{sparse.nonzeros:,}", f"{sparse.sparsity:.1%} zero")


def _bytes(number: int) -> str:
    return f"{number / 1000:,.0f} kB"


@contextmanager
def _silent(label: str, steps: int) -> Iterator[Callable[[float, float], None]]:
    yield lambda loss, sparsity: None


def run(
    recipe: Recipe,
    directory: Path,
    *,
    epochs: int,
    seed: int,
    show_plan: Callable[[Plan], None] = lambda plan: None,
    progress: Progress = _silent,
) -> Outcome:
    """Run the demo and write `directory`: both models, the resolved recipe, report, picture and page.

    Raises PlanError before anything is trained if the recipe does not fit.
    """
    data = digits()
    model = vit(seed)
    plan = Plan.of(recipe, model, steps_per_epoch=data[0].steps, epochs=epochs)
    show_plan(plan)
    with progress("dense", epochs * data[0].steps) as on_step:
        train(model, data, epochs, seed, on_step=on_step)
    dense = copy.deepcopy(model)
    manager = Manager(recipe)
    with progress("sparse", epochs * data[0].steps) as on_step:
        history = train(model, data, epochs, seed + 1, manager, on_step)
    manager.finalize(directory)
    outcome = Outcome(plan, *_measure(dense, model, plan, data[1], directory), history)
    _write(outcome, directory)
    return outcome


def _measure(dense: nn.Module, sparse: nn.Module, plan: Plan, test: Any, directory: Path) -> tuple[Side, Side]:
    targeted = plan.targeted()
    images = test.images[:64]
    models = (dense.eval(), sparse.eval())
    with torch.inference_mode():
        seconds = interleaved([lambda m=m: m(pixel_values=images) for m in models])  # type: ignore[misc]
    sides = []
    for name, model, spent in zip(("dense", "sparse"), models, seconds, strict=True):
        save: Any = model.save_pretrained
        save(directory / name)
        size = size_of(directory / name / "model.safetensors")
        sides.append(Side(accuracy(model, test), measure(model, targeted), size, 1000 * spent))
    return sides[0], sides[1]


def _write(outcome: Outcome, directory: Path) -> None:
    report = json.loads((directory / "report.json").read_text())
    report |= {"dense": outcome.dense.to_dict(), "sparse": outcome.sparse.to_dict(), "note": LEAD}
    write_text(directory / "report.json", json.dumps(report, indent=2) + "\n")
    title = f"sparsify demo: {outcome.plan.recipe.name}"
    history = outcome.history
    target = [(step, value) for step, value in enumerate(history.target, 1) if value is not None]
    sparsity = list(enumerate(history.sparsity, 1))
    curves = Curves(sparsity, target, history.accuracy, reference=outcome.dense.accuracy)
    picture = draw(title, curves, outcome.sparse.density.tensors)
    write_whole(directory / "picture.png", lambda file: file.write(picture.png))
    sections = (("Plan", str(outcome.plan)), ("Recipe, resolved", (directory / "recipe.yaml").read_text()))
    text = page(title, LEAD, [(outcome.header(), outcome.rows())], picture.svg, sections)
    write_text(directory / "index.html", text)
