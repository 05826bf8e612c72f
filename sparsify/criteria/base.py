"""The family of criteria."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sparsify.spec import Family


class Criterion(Family):
    """Gives every weight a score; the lowest are pruned first.

    `needs` says what must be at hand when scores are asked for: nothing, or some of `gradients`,
    `activations`, `scores` (learned parameters). A criterion with no needs can rank a model at step 0.
    `keeps_zeros` marks a criterion whose mask is what is non-zero already: it takes no sparsity.
    """

    family: ClassVar[str] = "criterion"
    needs: ClassVar[frozenset[str]] = frozenset()
    keeps_zeros: ClassVar[bool] = False

    def score(self, weight: Tensor) -> Tensor:
        """Return scores of the shape of `weight` (any floating dtype), element by element.

        Called on slices of a tensor, never with autograd on; must not change `weight`.
        """
        raise NotImplementedError(type(self).__name__)
