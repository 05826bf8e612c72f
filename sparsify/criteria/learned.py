"""The bases of criteria whose scores are learned: parameters beside the weights, one for each group."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsify.criteria.base import Criterion, Place
from sparsify.criteria.noise import uniform
from sparsify.spec import integral

Positive = Annotated[float, Field(gt=0, le=1e9)]


class Learned(Criterion):
    """A score S for every group, learned from the gradient that its weights get: ∂L/∂S = Σ (∂L/∂W′) ⊙ W over the group.

    W′ = W ⊙ mask is what the model computes with; the mask's derivative by S is taken for 1 (straight through).
    The scores' optimizer has no weight decay and is not the user's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    learned: ClassVar[bool] = True

    init: Literal["magnitude", "zero", "constant", "uniform"] = "magnitude"
    """Where scores start. `magnitude`: `offset` + `scale`·(|w| ÷ the tensor's mean |w|), averaged over a group, so
    that the first mask is magnitude's; `zero` (published): 0; `constant`: `offset`; `uniform`: `offset` ± `scale`."""

    scale: Positive = 1.0
    """What the start is multiplied with, or the half-width of `uniform`."""

    offset: float = 0.0
    """What is added to the start."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1), integral] = 0
    """The seed of a `uniform` start and of sampled gates."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """What moves the scores."""

    learning_rate: Positive = 1e-2
    """The learning rate of the scores (not of your optimizer)."""

    follow: bool = True
    """Whether the scores' learning rate follows your optimizer's: it is multiplied by that rate ÷ its initial value."""

    max_norm: Positive | None = None
    """Clip the norm of this modifier's score gradients to this value."""

    def start(self, relative: Tensor, place: Place) -> Tensor:
        """Return the first scores, in the shape of `relative`: each group's magnitude ÷ its tensor's mean magnitude.

        `place` numbers the groups instead of the weights.
        """
        if self.init == "magnitude":
            return relative * self.scale + self.offset
        if self.init == "uniform":
            return (2 * uniform(self.seed, relative, place).to(relative.dtype) - 1) * self.scale + self.offset
        return relative.new_full(relative.shape, self.offset if self.init == "constant" else 0.0)

    def score(self, weight: Tensor, place: Place) -> Tensor:
        """Return `weight`: it is asked about the learned scores, which rank as they are."""
        return weight


class Gated(Learned):
    """Scores with a threshold instead of a budget: what lies above `cut` is kept, and a penalty pushes scores down."""

    gated: ClassVar[bool] = True
    threshold: ClassVar[float | None] = None
    """Where the threshold on σ(S) ends unless the recipe says; None for gates that close by themselves."""

    stochastic: ClassVar[bool] = False
    """Whether weights are multiplied with gates between 0 and 1, sampled for each step, while it learns."""

    floor: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """The fraction of a tensor's groups, those with the highest scores, that is always kept, also below the
    threshold."""

    def cut(self, threshold: float) -> float:
        """Return the score that a group must exceed when the threshold on its gate is `threshold`."""
        raise NotImplementedError(type(self).__name__)

    def distance(self) -> float:
        """Return how far a typical score starts from the final threshold."""
        place = Place("", 0)
        return float(self.start(torch.full((1,), 2.0), place)) - self.cut(self.threshold or 0.0)

    def pressure_point(self, cut: float) -> float:
        """Return the score at which a pressure of 1 pushes as hard as training pulls, given the last cut."""
        return cut

    def penalized(self, scores: Tensor) -> Tensor:
        """Return what the penalty takes the mean of, for every score."""
        raise NotImplementedError(type(self).__name__)

    def slope(self, scores: Tensor) -> Tensor:
        """Return the derivative of `penalized`."""
        raise NotImplementedError(type(self).__name__)

    def gates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gates of an evaluation, and their derivatives by the scores."""
        raise NotImplementedError(type(self).__name__)

    def sample(self, scores: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return gates for a step from uniform noise in (0, 1), and their derivatives by the scores."""
        raise NotImplementedError(type(self).__name__)


def sigmoid_slope(value: Tensor) -> Tensor:
    """Return the derivative of a sigmoid from its value: σ·(1 − σ)."""
    return torch.addcmul(value, value, value, value=-1)
