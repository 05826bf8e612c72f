"""A model's folder, read back: zeros counted in its files, bytes, metrics and curves, for people and programs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sparsify import break_even
from sparsify.anatomy import read as anatomy
from sparsify.density import Count, total
from sparsify.errors import SparsifyError, first_line
from sparsify.outcome import RECIPE, REPORT
from sparsify.plan import Plan
from sparsify.pretrained import saved_names, skeleton, widest
from sparsify.recipe import Recipe
from sparsify.report import saved
from sparsify.report.apart import apart
from sparsify.report.census import CONVENTIONS, Census, count
from sparsify.report.curves import Curves
from sparsify.report.dense import MISSING, Dense
from sparsify.report.dense import dense as find_dense
from sparsify.report.findings import findings
from sparsify.report.picture import Picture, draw
from sparsify.report.size import Size, size_of
from sparsify.report.structure import Structure
from sparsify.report.watch import Watch
from sparsify.report.written import Planned, Written, read_written

FORMAT = 1
METRICS = (
    "accuracy",
    "f1",
    "f1_macro",
    "f1_weighted",
    "f1_binary",
    "matthews",
    "exact_match",
    "perplexity",
    "spearman",
    "pearson",
    "mse",
    "loss",
)
"""Those that are shown; the first that there is makes the curve."""


@dataclass(frozen=True)
class FolderReport:
    """What can be said about a folder with a model."""

    directory: Path
    census: Census
    size: Size
    recipe: Recipe | None
    plan: Plan | None
    written: Written
    """`report.json`, if there is one."""

    notes: list[str] = field(default_factory=list)
    structure: Structure = field(default_factory=Structure)
    dense: Dense | None = None
    """The dense model that it is compared with, if one is known."""

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.written.metrics

    def curves(self) -> Curves:
        """Return sparsity, target and metric over the training."""
        points = self.written.points
        name = next((key for key in (f"eval_{metric}" for metric in METRICS) if any(points(key))), "")
        reference = self.dense.metrics.get(name[5:]) if self.dense else None
        note = "" if reference is not None or self.recipe is None else MISSING
        sparsity, target, metric = (list(points(key)) for key in ("sparsity", "target_sparsity", name))
        return Curves(sparsity, target, metric, name[5:], reference, note)

    def title(self) -> str:
        """Return a line about the whole."""
        name = self.recipe.name if self.recipe else "no recipe"
        return f"{self.directory} ({name})"

    def picture(self) -> Picture:
        """Draw curves and layers."""
        shown = {name: c for name, c in self.census.tensors.items() if name.endswith("weight")}
        return draw(self.title(), self.curves(), shown, self.census.grid or None, self.structure.panels())

    def densities(self) -> list[tuple[str, ...]]:
        """Return (convention, weights, not zero, zeros, what is counted) as text."""
        found = self.census.conventions
        return [(name, *shown(found[name]), CONVENTIONS[name]) for name in CONVENTIONS if name in found]

    def facts(self) -> list[tuple[str, str]]:
        """Return (name, value) of what is not a density."""
        rows = [(name, self._beside(name, value)) for name, value in self.metrics.items() if name in METRICS]
        training = self.written.training
        if training:
            rows.append(("training", f"{training.steps} steps, {training.seconds:.0f} s"))
        rows += findings(self.written)
        rows += self.structure.facts()
        if self.plan is not None and self.plan.coverage is not None:
            rows.append(("covered", str(self.plan.coverage).removeprefix("covers ")))
        linear = self.census.conventions.get("encoder linear") or self.census.conventions.get("linear")
        if linear is not None and linear.sparsity >= break_even.LEAST:
            kernel = break_even.CONVOLUTION if self.census.is_convolutional() else break_even.ANYWHERE
            rows.append(("sparse engine", break_even.sentence(linear.sparsity, kernel=kernel)))
        rows.append(("weights on disk", f"{self.size.raw:,} bytes"))
        times = self.size.raw / max(self.size.zstd, 1)
        rows.append(("compressed", f"{self.size.zstd:,} bytes (zstd, level {self.size.level}; {times:.2f}× smaller)"))
        return rows

    def _beside(self, name: str, value: float) -> str:
        """Return a metric, with the dense model's beside it."""
        other = self.dense.metrics.get(name) if self.dense else None
        return f"{value:.4f}" if self.dense is None or other is None else f"{value:.4f} (dense: {other:.4f})"

    def counts(self) -> list[tuple[str, Count]]:
        """Return (tensor, count) of what has two dimensions or more; all vectors together in one row."""
        vectors = [name for name in self.census.tensors if self.census.dimensions.get(name, 2) < 2]
        rows = [(name, each) for name, each in self.census.tensors.items() if name not in set(vectors)]
        if vectors:
            every = total(self.census.tensors[name] for name in vectors)
            rows.append((f"{len(vectors)} biases, norms and other vectors", every))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        curves = self.curves()
        return {
            "format": FORMAT,
            "directory": str(self.directory),
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.resolve().sha256} if self.recipe else None,
            "metrics": self.metrics,
            "dense": {"directory": self.dense.path, "metrics": self.dense.metrics} if self.dense else None,
            **self.census.to_dict(),
            "structure": self.structure.to_dict(),
            "bytes": self.size.to_dict(),
            "curves": {
                name: [list(point) for point in points]
                for name, points in (
                    ("sparsity", curves.sparsity),
                    ("target", curves.target),
                    (curves.metric_name or "metric", curves.metric),
                )
            },
            "notes": self.notes,
        }


def read(directory: str | Path, *, dense: str | Path | None = None) -> FolderReport:
    """Read a folder of transformers, also a packed one; what `sparsify train` wrote beside the model is used if there.

    `dense` is the folder of the dense model to compare with; without it, the model that the training began with, or
    its teacher, is that if it is dense and was evaluated on the same rows. Raises StateError for a folder without
    weights, with files that are damaged, or a `dense` that cannot be compared with.
    """
    path = Path(directory)
    files = saved.find(path)
    with files.beside() as beside:
        return _read(path, files, beside, None if dense is None else Path(dense))


def _read(path: Path, files: saved.Saved, beside: Path, named: Path | None) -> FolderReport:
    """Read weights, and what lies beside them."""
    written = read_written(beside / REPORT)
    compared = find_dense(written, named)
    notes = files.notes()
    model = _architecture(beside, notes)
    recipe = Recipe.load(beside / RECIPE) if os.path.isfile(beside / RECIPE) else None
    plan = _plan(recipe, model, written.plan, notes) if recipe and model is not None else None
    targeted = plan.targeted() if plan else []
    renamed, split = (saved_names(model), apart(model)) if model is not None else ({}, {})
    wider = widest(str(beside)) if model is not None else None
    watch = Watch(model, anatomy(model), anatomy(wider) if wider is not None else None) if model is not None else None
    census = count(files, model, targeted, renamed, split, *([watch] if watch else []))
    notes += [f"not counted: {number} tensor{'s' * (number > 1)} of {kind}" for kind, number in census.others.items()]
    structure = Structure(watch.living(), watch.maps()) if watch else Structure()
    return FolderReport(path, census, size_of(files.files), recipe, plan, written, notes, structure, compared)


def _architecture(directory: Path, notes: list[str]) -> nn.Module | None:
    """Return the model without its weights, or None, with a note, where it cannot be made."""
    if not os.path.isfile(directory / "config.json"):
        notes.append("there is no config.json: only tensors are counted, by name")
        return None
    try:
        return skeleton(str(directory))
    except SparsifyError as error:
        notes.append(f"only tensors are counted: {error}")
        return None


def _plan(recipe: Recipe, model: nn.Module, planned: Planned, notes: list[str]) -> Plan | None:
    try:
        return Plan.of(recipe, model, total_steps=planned.total_steps, steps_per_epoch=planned.steps_per_epoch)
    except SparsifyError as error:
        notes.append(f"recipe.yaml does not fit the model here: {first_line(error)}")
        return None


def shown(count: Count) -> tuple[str, str, str]:
    """Return (weights, not zero, zeros) as text."""
    return f"{count.elements:,}", f"{count.nonzeros:,}", f"{count.sparsity:.2%}"
