"""The family of patterns: how tensors fall into groups of weights that share their fate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sparsify.anatomy import Anatomy
from sparsify.anatomy.parts import DEFAULT
from sparsify.layers import Weight
from sparsify.patterns.bundle import Bundle, Part, Tile
from sparsify.patterns.reduction import Reduction
from sparsify.spec import Family


@dataclass(frozen=True)
class Misfit:
    """Why tensors cannot carry a pattern."""

    reason: str
    names: tuple[str, ...] = ()
    key: str = "pattern"
    """What in the modifier is to blame: `pattern` or `targets`."""

    note: bool = False
    """Whether the rest can do without them, so that it need only be said."""


class Pattern(Family):
    """Cuts tensors, seen as rows (outputs) × taps × columns (inputs), into tiles; a group is one or several.

    As it stands, every weight is a group of its own; `Grouped` is the base of patterns with larger tiles.
    Class variables: `role` is what default targets mean to the pattern; `by_row` whether the groups of a row
    of tiles can compete among themselves.
    """

    family: ClassVar[str] = "pattern"
    role: ClassVar[str] = DEFAULT
    by_row: ClassVar[bool] = True

    @property
    def couples(self) -> bool:
        """Whether groups are channels as the whole model couples them; then `bundles` is not asked."""
        return False

    @property
    def multiple(self) -> int:
        """What the number of groups that each bundle keeps is a multiple of."""
        return 1

    @property
    def apart(self) -> bool:
        """Whether each bundle has a budget of its own, whatever the scope: all lose the same share of their groups."""
        return False

    def tile(self, weight: Weight) -> Tile:
        """Return (rows, taps, columns) of one group in a tensor."""
        return (1, 1, 1)

    def problem(self, weight: Weight) -> str | None:
        """Return why a tensor cannot carry the pattern, or None."""
        return None

    def bundles(self, weights: Sequence[Weight], anatomy: Anatomy | None) -> tuple[list[Bundle], list[Misfit]]:
        """Return the targeted tensors in bundles whose groups compete, and what does not fit."""
        reasons: dict[str, list[str]] = {}
        fitting = []
        for weight in weights:
            reason = self.problem(weight)
            if reason:
                reasons.setdefault(reason, []).append(weight.name)
            else:
                fitting.append(self.bundle(weight))
        return fitting, [Misfit(reason, tuple(names)) for reason, names in reasons.items()]

    def bundle(self, weight: Weight) -> Bundle:
        """Return the bundle of one tensor."""
        return Bundle(weight.name, (Part(weight, self.tile(weight)),))

    def most(self) -> float:
        """Return the highest sparsity that the pattern allows."""
        return 1.0

    def period(self) -> int:
        """Return how many consecutive inputs `guard` must see together."""
        return 1

    def guard(self, scores: Tensor) -> Tensor:
        """Return the scores [k, period] with +inf for what takes no part in the competition and is never pruned.

        `scores` may be written to.
        """
        return scores


class Grouped(Pattern):
    """The base of patterns whose groups hold several weights: their scores are reduced to one."""

    reduce_by: Reduction = Field(default="mean", alias="reduce")
    """How the scores of a group's weights become the group's score."""

    def label(self) -> str:
        return self.type if self.reduce_by == "mean" else f"{self.type} by {self.reduce_by}"


class Equal(Grouped):
    """The base of patterns whose groups can leave a model afterwards, in equal numbers if that is wanted."""

    equal: bool | None = None
    """Whether every layer keeps the same number of groups: each layer is ranked by itself, whatever the scope. So a
    smaller model has layers of one width, which configurations of transformers can express.
    """

    align: int | None = Field(default=None, ge=1, le=4096)
    """What the number of groups that a layer keeps is a multiple of: rounded down, so that the sparsity is reached.

    Dense kernels like widths of 8 or 16. It goes with `equal: true` or `scope: tensor`.
    """

    @property
    def apart(self) -> bool:
        return bool(self.equal)

    @property
    def multiple(self) -> int:
        return self.align or 1

    def label(self) -> str:
        said = [each for each in ("as many in every layer" if self.equal else "", self._rounded()) if each]
        return super().label() + (f" ({', '.join(said)})" if said else "")

    def _rounded(self) -> str:
        return f"in multiples of {self.align}" if self.multiple > 1 else ""


class Mapped(Grouped):
    """The base of patterns whose groups are no rectangles: diagonals, checkerboards, butterflies."""

    by_row: ClassVar[bool] = False

    def groups(self, weight: Weight) -> Tensor:
        """Return the group of every weight, int64 [rows, taps, columns].

        Groups are numbered from 0 in the order in which ties are settled, and each has a weight. `weight.geometry`
        gives the sizes; the weights themselves may not be there yet.
        """
        raise NotImplementedError(type(self).__name__)

    def bundle(self, weight: Weight) -> Bundle:
        return Bundle(weight.name, (Part.mapped(weight, self.groups(weight)),))
