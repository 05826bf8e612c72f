"""What share of a model's matrices a recipe acts on, and what it leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsify.anatomy.parts import Anatomy
from sparsify.anatomy.words import EMBEDDINGS, HEADS, called, is_adapter
from sparsify.layers import TABLES, Weight, adapters, layouts, merged, unprunable

SHOWN = 3
UNKNOWN = "a parameter of"
"""What is said of matrices in classes that nobody has made known."""

OUTSIDE = ("embeddings", "task_head", "router")
NO_MATRICES = re.compile(r"\w*(bias|token|table|pos|scale|gamma|A_log|latents|queries|prompt|mask)\w*", re.IGNORECASE)
"""Names of parameters that have several dimensions and are no matrices: tables and scales."""


@dataclass(frozen=True)
class Missed:
    """Matrices that nothing acts on, of one kind."""

    name: str
    """Their name, with `*` for the numbers in it."""

    weights: int
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


@dataclass(frozen=True)
class Coverage:
    """Counts of weights in matrices and convolutions, without embeddings, task head, routers and adapters."""

    covered: int
    total: int
    frozen: int
    """How many of `total` are not trained."""

    missed: tuple[Missed, ...]
    """What is not covered, the largest first."""

    @property
    def share(self) -> float:
        """The part that is covered; 1 where there is nothing to cover."""
        return self.covered / self.total if self.total else 1.0

    def __str__(self) -> str:
        named = ", ".join(map(str, self.missed[:SHOWN])) + (", …" if len(self.missed) > SHOWN else "")
        left = self.total - self.covered
        said = f"covers {_percent(self.covered, self.total)} of the {self.total:,} matrix weights"
        if left:
            said += f"; not covered, {left:,}: {named}"
        return said + (f"; {self.frozen:,} of them are frozen" if self.frozen else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {
            "covered": self.covered,
            "total": self.total,
            "frozen": self.frozen,
            "missed": [{"name": each.name, "weights": each.weights, "why": each.why} for each in self.missed],
        }


def coverage(model: nn.Module, anatomy: Anatomy | None, weights: Iterable[Weight]) -> Coverage:
    """Return how much of a model's matrices `weights` are. Nothing is read but shapes."""
    chosen: dict[int, int] = {}
    for weight in merged(weights):
        chosen[id(weight.parameter)] = chosen.get(id(weight.parameter), 0) + weight.geometry.elements
    outside = {id(weight.parameter) for role in OUTSIDE for weight in _role(anatomy, role)} | adapters(model).keys()
    reasons = unprunable(model)
    covered = total = frozen = 0
    missed: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    for owner, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            mine = chosen.get(id(parameter), 0)
            if not mine and (id(parameter) in outside or not _counts(owner, module, attribute, parameter)):
                continue
            covered, total = covered + mine, total + parameter.numel()
            frozen += 0 if parameter.requires_grad else parameter.numel()
            if mine < parameter.numel():
                key = _kind(owner, module, attribute, parameter, reasons)
                missed[key] = missed.get(key, 0) + parameter.numel() - mine
    found = sorted((Missed(name, count, why) for (name, why), count in missed.items()), key=lambda each: -each.weights)
    return Coverage(covered, total, frozen, tuple(found))


def _role(anatomy: Anatomy | None, role: str) -> tuple[Weight, ...]:
    return anatomy.role(role) if anatomy is not None else ()


def _counts(owner: str, module: nn.Module, attribute: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix that a recipe might be thought to act on."""
    if parameter.dim() < 2 or isinstance(module, TABLES) or sum(side > 1 for side in parameter.shape) < 2:
        return False
    name = f"{owner}.{attribute}"
    if is_adapter(name):
        return False
    if attribute in layouts(module):
        return True
    return not (called(name, EMBEDDINGS) or called(name, HEADS) or NO_MATRICES.fullmatch(attribute))


def _kind(
    owner: str, module: nn.Module, attribute: str, parameter: Tensor, reasons: Mapping[str, str]
) -> tuple[str, str]:
    """Return a name that stands for all alike, and why it is left out where its kind is the reason."""
    before, _, within = owner.partition(".parametrizations.")
    made = f"{before}.{within.partition('.')[0] or attribute.rpartition('_')[0]}"
    reason = reasons.get(made) or reasons.get(f"{owner}.{attribute}")
    name = made if made in reasons else f"{owner}.{attribute}" if owner else attribute
    name = re.sub(r"(?<![^.])\d+(?![^.])", "*", name.removesuffix(".weight"))
    if reason or attribute in layouts(module):
        return name, reason or ""
    return name, f"{type(module).__name__}, {UNKNOWN} {parameter.dim()} dimensions"


def _percent(part: int, whole: int) -> str:
    """Return a share that is 0 % or 100 % only where it is so."""
    share = 100 * part / whole if whole else 100.0
    if 0 < share < 1 or 99 < share < 100:
        return f"{min(max(share, 0.01), 99.99):.2f} %"
    return f"{share:.0f} %"
