"""The family of criteria."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsify.errors import SparsifyError, did_you_mean
from sparsify.spec import Family

NEEDS = frozenset({"scores", "statistics", "gradients", "second moments", "inputs", "hessian"})
"""What a criterion may need: learned `scores`; `statistics` of the whole tensor; the weights' `gradients` and their
`second moments`; the layer's `inputs`; its `hessian`."""

Statistics = Tensor | Mapping[str, Tensor]
"""What a criterion keeps of a whole tensor."""


@dataclass(frozen=True)
class Place:
    """Which weights of which tensor a criterion is asked about."""

    name: str
    """The tensor's name."""

    start: int
    """Index of the first weight, counted over rows (outputs), taps, columns (inputs)."""

    stride: int = 1
    """With more than 1, only every `stride`-th row of the piece's last dimension is there (a sample)."""

    shape: tuple[int, int, int] = (0, 0, 0)
    """Rows, taps and columns of the whole tensor; a matrix has one tap."""

    statistics: Any = None
    """What `Criterion.statistics` returned of the whole tensor."""

    def indices(self, piece: Tensor) -> Tensor:
        """Return the index of every weight of `piece`, int64, in its shape."""
        width = piece.shape[-1] if piece.dim() > 1 else 1
        rows = torch.arange(piece.numel() // max(width, 1), device=piece.device) * (self.stride * width)
        columns = torch.arange(width, device=piece.device)
        return (self.start + rows.unsqueeze(1) + columns).view(piece.shape)

    def rows(self, piece: Tensor) -> Tensor:
        """Return the row (output) of every weight of `piece`, int64, in its shape."""
        return self.indices(piece) // self._width

    def inputs(self, piece: Tensor) -> Tensor:
        """Return the place in its row, tap × columns + column, of every weight of `piece`, int64, in its shape."""
        return self.indices(piece) % self._width

    @property
    def _width(self) -> int:
        return max(self.shape[1] * self.shape[2], 1)


class Criterion(Family):
    """Gives every weight a score; the lowest are pruned first.

    `needs` says what must be at hand when scores are asked for: nothing, or some of `NEEDS`. A criterion with no needs
    can rank a model at step 0.
    `keeps_zeros` marks a criterion whose mask is what is non-zero already: it takes no sparsity.
    `whole_rows` asks for pieces [rows, inputs] that hold whole rows, for scores that look at a row.
    `learned` scores are parameters (see `criteria.learned`); `gated` ones have a threshold instead of a budget.
    """

    family: ClassVar[str] = "criterion"
    needs: ClassVar[frozenset[str]] = frozenset()
    keeps_zeros: ClassVar[bool] = False
    whole_rows: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if not cls._is_root():
            _check_needs(cls)
        super().__pydantic_init_subclass__(**kwargs)

    def score(self, weight: Tensor, place: Place) -> Tensor:
        """Return floating scores of the shape of `weight`, one for each of its elements.

        `weight` (any floating dtype) is a piece of a tensor, [rows, inputs] with `whole_rows` and of any shape
        without; `place` says which piece. A score depends on the weight, its place and what the criterion needs, never
        on the rest of the piece (with `whole_rows`: of the row). Asked for several times, it must answer alike. Called
        with autograd off; must not change `weight`.

        Examples:
            >>> import torch
            >>> Criterion.parse("magnitude").score(torch.tensor([[1.0, -2.0]]), Place("weight", 0))
            tensor([[1., 2.]])
        """
        raise NotImplementedError(type(self).__name__)

    def statistics(self, weight: Tensor, place: Place) -> Statistics:
        """Return what scores must know of a whole tensor, [rows, inputs] with all taps of a kernel among the inputs.

        Asked for where `needs` has `statistics`, before the scores of the tensor's pieces are, which find it as
        `place.statistics`; there `place.rows` and `place.inputs` say to which of its rows and columns weights belong.
        Must not change `weight`.
        """
        raise NotImplementedError(type(self).__name__)


def _check_needs(criterion: type[Criterion]) -> None:
    """Raise SparsifyError, naming the class, unless what a criterion needs is known, and it has what that takes."""
    who, needs = f"{criterion.__module__}.{criterion.__qualname__}", criterion.needs
    if not isinstance(needs, (set, frozenset)):
        raise SparsifyError(
            f"{who}: `needs` must be a set of words, such as frozenset({{'statistics'}}), got {needs!r}"
        )
    for need in sorted(map(str, needs - NEEDS)):
        raise SparsifyError(f"{who}: unknown need {need!r}{did_you_mean(need, NEEDS)}")
    makes = criterion.statistics is not Criterion.statistics
    if makes != ("statistics" in needs):
        lacks = "needs 'statistics' and has no method `statistics`"
        raise SparsifyError(f"{who} {'has a method `statistics` and does not need it' if makes else lacks}")
