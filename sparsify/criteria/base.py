"""The family of criteria."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsify.spec import Family


@dataclass(frozen=True)
class Place:
    """Which weights of which tensor a criterion is asked about."""

    name: str
    """The tensor's name."""

    start: int
    """Index of the first weight, counted over rows (outputs), taps, columns (inputs)."""

    stride: int = 1
    """With more than 1, only every `stride`-th row of the piece's last dimension is there (a sample)."""

    def indices(self, piece: Tensor) -> Tensor:
        """Return the index of every weight of `piece`, int64, in its shape."""
        width = piece.shape[-1] if piece.dim() > 1 else 1
        rows = torch.arange(piece.numel() // max(width, 1), device=piece.device) * (self.stride * width)
        columns = torch.arange(width, device=piece.device)
        return (self.start + rows.unsqueeze(1) + columns).view(piece.shape)


class Criterion(Family):
    """Gives every weight a score; the lowest are pruned first.

    `needs` says what must be at hand when scores are asked for: nothing, or some of `gradients`,
    `activations`, `scores` (learned parameters). A criterion with no needs can rank a model at step 0.
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

    def score(self, weight: Tensor, place: Place) -> Tensor:
        """Return floating scores of the shape of `weight`, one for each of its elements.

        `weight` (any floating dtype) is a piece of a tensor, [rows, inputs] with `whole_rows` and of any shape
        without; `place` says which piece. Asked for several times, it must answer alike. Called with autograd
        off; must not change `weight`.
        """
        raise NotImplementedError(type(self).__name__)
