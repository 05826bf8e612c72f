"""What came out of a run: the report that is written, and the complaint when it falls short."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparsify._version import __version__
from sparsify.checkpoint import write_text
from sparsify.density import Density
from sparsify.errors import SparsityError
from sparsify.masking.masks import Masks
from sparsify.modifiers.contract import Shortfall
from sparsify.plan import Plan

FORMAT = 1
REPORT, RECIPE = "report.json", "recipe.yaml"


@dataclass(frozen=True)
class Outcome:
    """A finished run: what was planned, how many steps were made, what is in the tensors."""

    plan: Plan
    density: Density
    completed: int
    skipped: int
    last_update: int
    partial: bool
    """Whether a training that ended early is accepted."""

    short: Sequence[Shortfall]
    revived: Mapping[str, int] = field(default_factory=dict)
    """Weights that masks prune but that were not zero before the end, by tensor."""

    without_gradients: Sequence[str] = ()
    """Modifiers that needed gradients and never found any."""

    found: Mapping[str, Any] = field(default_factory=dict)
    """What the modifiers found out on the way, by key."""

    @property
    def finished(self) -> bool:
        """Whether the training lasted to the recipe's last update; skipped steps count as training."""
        return self.completed + self.skipped >= self.last_update

    def complaint(self) -> str:
        """Return why the model is not what the recipe asked for, with a table; empty if it is."""
        lines = []
        if not self.finished and not self.partial:
            lines.append(
                f"training ended after {self.completed} steps; "
                f"the recipe's last update is due at step {self.last_update}"
            )
        lines += [f"{key} needs the gradients of its weights, and never found any" for key in self.without_gradients]
        if self.density.not_finite:
            lines.append(
                f"values that are not finite, so that no sparsity can be verified: {_some(self.density.not_finite)}"
            )
        if self.revived:
            lines.append(f"{_REVIVED}:")
            lines += [f"  {name:<48} {count:>12,} weights" for name, count in self.revived.items()]
            return "\n".join(lines)
        if self.short:
            lines.append("fewer zeros than asked for:" if lines else f"{_CHANGED}:")
            lines.append(f"  {'tensor':<48} {'wanted':>12} {'found':>12} {'of':>12}  modifier")
            lines += [f"  {s.name:<48} {s.wanted:>12,} {s.found:>12,} {s.elements:>12,}  {s.why}" for s in self.short]
        return "\n".join(lines)

    def check(self) -> None:
        """Raise SparsityError if the model is not what the recipe asked for."""
        if complaint := self.complaint():
            raise SparsityError(complaint)

    def write(self, directory: Path) -> None:
        """Write `recipe.yaml` (resolved) and `report.json`."""
        report = {
            "format": FORMAT,
            "sparsify": __version__,
            "torch": torch.__version__,
            "recipe": {"name": self.plan.recipe.name, "sha256": self.plan.recipe.sha256},
            "steps": {"completed": self.completed, "skipped": self.skipped},
            "finished": self.finished,
            "verified": not self.complaint(),
            "revived": dict(self.revived),
            "density": self.density.to_dict(),
            "modifiers": dict(self.found),
            "plan": self.plan.to_dict(),
        }
        write_text(
            directory / RECIPE, f"# sha256 {self.plan.recipe.sha256}\n# {_versions()}\n{self.plan.recipe.dump()}"
        )
        write_text(directory / REPORT, json.dumps(report, indent=2) + "\n")


def _versions() -> str:
    """Return what the recipe was run with."""
    known = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("torch", "transformers")}
    return ", ".join([f"sparsify {__version__}", *(f"{name} {version}" for name, version in known.items() if version)])


_CHANGED = "fewer zeros than asked for (were weights changed outside of optimizer.step()?)"

_REVIVED = (
    "weights that were pruned are not zero: they were changed since the last step, for example by loading an older "
    "state of the model (load the manager's state of the same moment, or prune them again with manager.project(model))"
)


def revived(masks: Masks) -> dict[str, int]:
    """Return how many weights that masks prune are not zero, by tensor, where there are any."""
    found = {}
    for masked in masks:
        count = int(torch.count_nonzero(masked.weight.tensor[~masked.near()]))
        if count:
            found[masked.weight.parameter_name] = count
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
