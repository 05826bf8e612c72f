"""What differs between two recipes, two plans, or two sets of saved weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify.errors import StateError
from sparsify.report.saved import Saved

ABSENT = "–"


@dataclass(frozen=True)
class Change:
    """A value that two documents give differently; `ABSENT` where one has none."""

    path: str
    before: Any
    after: Any


def documents(before: Any, after: Any) -> list[Change]:
    """Return the changes between two trees of plain data, by path; entries of lists with a `name` or `key` go by it."""
    first, second = dict(_leaves(before, "")), dict(_leaves(after, ""))
    paths = dict.fromkeys([*first, *second])
    changes = [Change(path, first.get(path, ABSENT), second.get(path, ABSENT)) for path in paths]
    return [change for change in changes if change.before != change.after]


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and node:
        for index, value in enumerate(node):
            name = value.get("name") or value.get("key") if isinstance(value, dict) else None
            yield from _leaves(value, f"{path}[{name if name is not None else index}]")
    else:
        yield path, node


@dataclass(frozen=True)
class Overlap:
    """How the masks (what is not zero) of two tensors of the same name lie to each other."""

    name: str
    elements: int
    kept_before: int
    kept_after: int
    kept_both: int
    equal: int
    """Values that are the same in both."""

    @property
    def jaccard(self) -> float:
        """Kept in both ÷ kept in either: 1 for the same mask."""
        either = self.kept_before + self.kept_after - self.kept_both
        return self.kept_both / either if either else 1.0

    @property
    def overlap(self) -> float:
        """Kept in both ÷ the smaller number kept: 1 if one mask lies inside the other."""
        smaller = min(self.kept_before, self.kept_after)
        return self.kept_both / smaller if smaller else 1.0

    @property
    def by_chance(self) -> float:
        """The Jaccard index that two independent masks of these densities would have."""
        a, b = self.kept_before / max(self.elements, 1), self.kept_after / max(self.elements, 1)
        return a * b / (a + b - a * b) if a + b else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return counts and indices as plain data."""
        return {**asdict(self), "jaccard": self.jaccard, "overlap": self.overlap, "by_chance": self.by_chance}


@dataclass(frozen=True)
class Weights:
    """Two checkpoints side by side."""

    overlaps: tuple[Overlap, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    reshaped: tuple[str, ...]

    def sparse(self) -> list[Overlap]:
        """Return the tensors of two dimensions or more in which something is zero in either."""
        return [o for o in self.overlaps if min(o.kept_before, o.kept_after) < o.elements]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "total": together("sparse tensors", self.sparse()).to_dict(),
            "tensors": [overlap.to_dict() for overlap in self.overlaps],
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "reshaped": list(self.reshaped),
        }


def together(name: str, overlaps: list[Overlap]) -> Overlap:
    """Return the sum."""

    def added(field: str) -> int:
        return sum(getattr(overlap, field) for overlap in overlaps)

    counts = (added(field) for field in ("elements", "kept_before", "kept_after", "kept_both", "equal"))
    return Overlap(name, *counts)


def _under_names_of(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return the tensors as they are, or with the prefix of the body (`bert.`) that the others have or lack."""
    if set(tensors) & set(names):
        return tensors
    for prefix in {name.partition(".")[0] for name in names}:
        longer = {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
        if set(longer) & set(names):
            return longer
    shorter = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return shorter if set(shorter) & set(names) else tensors


def weights(before: Saved, after: Saved) -> Weights:
    """Compare two checkpoints tensor by tensor; a body compares with the same body under a task's head.

    Matrices of real numbers are compared. Raises StateError if they have none in common.
    """
    first = _under_names_of(dict(before.tensors()), [name for name, _ in after.tensors()])
    overlaps, only_after, reshaped = [], [], []
    for name, tensor in after.tensors():
        other = first.pop(name, None)
        if other is None:
            only_after.append(name)
        elif other.shape != tensor.shape:
            reshaped.append(name)
        elif tensor.is_floating_point() and tensor.dim() > 1:
            kept = [part != 0 for part in (other, tensor)]
            counts = [int(torch.count_nonzero(part)) for part in (*kept, kept[0] & kept[1], other == tensor)]
            overlaps.append(Overlap(name, tensor.numel(), *counts))
    if not overlaps:
        raise StateError(f"{before.path} and {after.path} have no matrix of real numbers of the same name and shape")
    return Weights(tuple(overlaps), tuple(first), tuple(only_after), tuple(reshaped))
