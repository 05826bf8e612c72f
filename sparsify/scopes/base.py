"""The family of scopes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.spec import Family, fail_at


@dataclass(frozen=True)
class BundleFacts:
    """What a scope knows of a bundle that competes."""

    elements: int
    """Weights in it."""

    perimeter: int
    """The sum of its tensors' dimensions."""

    most: float = 1.0
    """The highest sparsity that is possible for it."""

    role: str = ""
    """`attention`, `ffn`, …; empty where the architecture is not known."""

    layer: str = ""
    """The name of its layer."""


Arena = Sequence[int]
"""Indices of the bundles that share a budget, in order."""


def absent_roles(roles: Iterable[str], facts: Sequence[BundleFacts]) -> list[str]:
    """Return the roles that no each has: what a recipe says of them has no effect."""
    present = {each.role for each in facts}
    return [role for role in roles if role not in present]


class Scope(Family):
    """Divides bundles into arenas; groups compete within their arena only.

    `by_row` marks a scope in which the groups of each row compete among themselves.
    """

    family: ClassVar[str] = "scope"
    by_row: ClassVar[bool] = False

    def arenas(self, facts: Sequence[BundleFacts]) -> list[Arena]:
        """Return the arenas, in order; together they hold every each once."""
        raise NotImplementedError(type(self).__name__)

    def shares(self, sparsity: float, arena: Arena, facts: Sequence[BundleFacts]) -> list[tuple[Arena, float]]:
        """Divide the sparsity of an arena among those that truly compete: (indices, their sparsity)."""
        return [(arena, sparsity)]

    def bounds(self, sparsity: float) -> tuple[float, float]:
        """Return the lowest and the highest sparsity of a single each when its arena has `sparsity`."""
        return 0.0, 1.0

    def highest(self) -> float:
        """Return the highest sparsity that the scope can reach."""
        return 1.0

    def needs_anatomy(self) -> str:
        """Return what of the scope needs a known architecture; empty if nothing does."""
        return ""


class Pooled(Scope):
    """The base of scopes in which bundles share a budget unequally."""

    floor: float = Field(default=0.0, ge=0, le=1)
    """No tensor (head block, …) is less sparse than this, or than the arena while that is less."""

    ceiling: float = Field(default=1.0, ge=0, le=1)
    """No tensor is sparser than this, up to one group."""

    within: Literal["role", "layer"] | None = None
    """Compete within the same role (attention and FFN apart) or the same layer only."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.floor > self.ceiling:
            raise fail_at("Pooled", ("floor",), f"the floor {self.floor:g} is above the ceiling", self.floor)
        return self

    def label(self) -> str:
        parts = [self.type]
        if self.within:
            parts.append(f"within {self.within}")
        if self.floor > 0:
            parts.append(f"≥ {self.floor:g}")
        if self.ceiling < 1:
            parts.append(f"≤ {self.ceiling:g}")
        return " ".join(parts)

    def arenas(self, facts: Sequence[BundleFacts]) -> list[Arena]:
        together: dict[str, list[int]] = {}
        for index, each in enumerate(facts):
            together.setdefault(getattr(each, self.within) if self.within else "", []).append(index)
        return list(together.values())

    def bounds(self, sparsity: float) -> tuple[float, float]:
        return min(self.floor, sparsity), self.ceiling

    def highest(self) -> float:
        return self.ceiling

    def needs_anatomy(self) -> str:
        return f"within: {self.within}" if self.within else ""
