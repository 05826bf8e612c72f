"""Short trainings behind the pictures of the method pages: one a page, kept as files.

The demo's digits and small ViT (for `channels-coupled` its ResNet): ten epochs of 21 steps densely from scratch, then
five from those weights under the recipe, seconds each. What would need a longer training or a deeper model has other
values here (`SETTINGS`); each picture names them.

    python benchmarks/method_runs.py OUT [--only NAME …] [--epochs 5]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import Manager, Recipe
from sparsify.demo.resnet import resnet
from sparsify.demo.task import Digits, accuracy, digits, vit
from sparsify.demo.training import train
from sparsify.modifiers.substitute.run import SubstitutePlan
from sparsify.plan import Plan

PAGES = Path(__file__).parents[1] / "docs" / "methods"
SEED = 0
DENSE_EPOCHS = 10

SETTINGS: dict[str, dict[str, Any]] = {
    "compound-3": {"layers": 1},
    "compound-6": {"layers": 2},
    "granet": {"every": 10},
    "layer-drop-3": {"layers": 1},
    "layer-drop-6": {"layers": 2},
    "lottery-ticket": {"every": 16},
    "rigl": {"every": 10},
    "set": {"every": 10},
}
"""Values that fit four layers and 105 steps."""

WRITTEN = {
    "freeze": """
version: 1
stages:
  - name: head-first
    length: 30%
    modifiers: [{type: freeze, targets: "*", exclude: task_head}]
  - name: prune
    modifiers: [{type: prune, sparsity: 0.8, window: {end: 70%, every: 10}}]
""",
    "learning-rate": """
version: 1
modifiers:
  - {type: learning_rate, rate: 2e-3, warmup: 5%, curve: linear, to: 0.1, cycles: 4}
  - {type: prune, sparsity: 0.8, window: {begin: 10%, end: 70%, every: 10}}
""",
}
"""Recipes of pages about modifiers that no recipe of that name stands for."""

FROM_SPARSE = ("lock", "sparse-transfer")
"""Recipes for models that are sparse already: they begin with what `gmp` left."""


@dataclass(frozen=True)
class Series:
    """One number over completed steps."""

    label: str
    values: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What one training leaves for its picture; plain data and tensors."""

    name: str
    settings: Mapping[str, Any]
    epochs: int
    dense: float
    """Accuracy of the model that the training begins with."""

    accuracy: list[tuple[int, float]]
    sparsity: list[float]
    zeros: float
    masks: Mapping[str, Tensor]
    """Of every matrix [rows, inputs] that is left: true where a weight is not zero; by its name before the training."""

    series: Mapping[str, Any] | None = None
    """What is drawn in place of the sparsity, a `Series` as plain data."""


def recipe_of(name: str) -> Recipe:
    """Return the recipe that the picture of a page is made with."""
    return Recipe.parse(WRITTEN[name], name) if name in WRITTEN else Recipe.load(name, **SETTINGS.get(name, {}))


@cache
def data() -> tuple[Digits, Digits]:
    """Return the digits."""
    return digits()


@cache
def dense(kind: Callable[[int], nn.Module]) -> nn.Module:
    """Return a model trained densely from scratch."""
    model = kind(SEED)
    train(model, data(), DENSE_EPOCHS, SEED)
    return model


@cache
def sparse(epochs: int) -> nn.Module:
    """Return what `gmp` makes of the dense model."""
    model = copy.deepcopy(dense(vit))
    manager = Manager.from_recipe("gmp")
    train(model, data(), epochs, SEED + 2, manager)
    manager.finalize()
    return model


def run(name: str, epochs: int) -> Run:
    """Train under the recipe of a page."""
    kind: Callable[[int], nn.Module] = resnet if name == "channels-coupled" else vit
    start = sparse(epochs) if name in FROM_SPARSE else dense(kind)
    model, manager = copy.deepcopy(start), Manager(recipe_of(name))
    needed = manager.recipe.needs()
    bindings: dict[str, Any] = {"teacher": dense(kind)} if "teacher" in needed else {}
    seen = _watched(name, manager)
    history = train(model, data(), epochs, SEED + 1, manager, seen.step, **bindings)
    density = manager.finalize()
    return Run(
        name=name,
        settings=SETTINGS.get(name, {}),
        epochs=epochs,
        dense=accuracy(start, data()[1]),
        accuracy=history.accuracy,
        sparsity=history.sparsity,
        zeros=density.targeted.sparsity if manager.plan.targeted() else 0.0,
        masks=_masks(model, manager.plan),
        series=asdict(seen.series) if seen.series is not None else None,
    )


class _Watch:
    """Notes a number of the manager's at every step."""

    def __init__(self, manager: Manager, label: str = "", value: Callable[[Manager], float] | None = None) -> None:
        self.manager, self.value = manager, value
        self.series = Series(label) if value is not None else None

    def step(self, loss: float, sparsity: float) -> None:
        if self.series is not None and self.value is not None:
            self.series.values.append((self.manager.step, self.value(self.manager)))


def _watched(name: str, manager: Manager) -> _Watch:
    if name == "learning-rate":
        return _Watch(manager, "learning rate", lambda manager: manager.learning_rate or 0.0)
    if name == "nonorm-relu":
        return _Watch(manager, "λ, share of the new functions", _share)
    if name == "freeze":
        return _Watch(manager, "encoder weights moved, % of their norm", _Moved())
    return _Watch(manager)


def _share(manager: Manager) -> float:
    (plan,) = manager.plan.modifiers
    assert isinstance(plan, SubstitutePlan)
    return plan.share(manager.step)


class _Moved:
    """How far the matrices of the layers are from where they began."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] = {}

    def __call__(self, manager: Manager) -> float:
        now = {name: p.detach() for name, p in manager.model.named_parameters() if ".layers." in name and p.dim() == 2}
        if not self.start:  # after the first step: it was frozen, or has hardly moved
            self.start = {name: p.clone() for name, p in now.items()}
        apart = sum(float((now[name] - old).square().sum()) for name, old in self.start.items())
        return 100 * (apart / sum(float(old.square().sum()) for old in self.start.values())) ** 0.5


def _masks(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    kept = {change.stack: change.kept for change in plan.changes.values() if hasattr(change, "kept")}
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or not (".layers." in name or name.startswith(("blocks.", "stem"))):
            continue
        for stack, numbers in kept.items():
            if name.startswith(f"{stack}."):
                number, _, rest = name.removeprefix(f"{stack}.").partition(".")
                name = f"{stack}.{numbers[int(number)]}.{rest}"
        masks[name] = (parameter.detach() != 0).flatten(1)
    return masks


def main() -> None:
    """Train, and keep each run in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", help="names of pages")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in sorted(page.stem for page in PAGES.glob("*.md")):
        if arguments.only and name not in arguments.only:
            continue
        torch.manual_seed(SEED)
        found = run(name, arguments.epochs)
        torch.save(asdict(found), arguments.out / f"{name}.pt")
        print(f"{name}: {found.zeros:.1%} zeros, {found.accuracy[-1][1]:.2%} (before {found.dense:.2%})", flush=True)


if __name__ == "__main__":
    main()
