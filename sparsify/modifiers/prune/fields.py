"""What a `prune` in a recipe says."""

from __future__ import annotations

from typing import Literal

from sparsify.criteria import Criterion
from sparsify.criteria.magnitude import Magnitude
from sparsify.layers import Weight
from sparsify.modifiers.prune.penalty import Penalty
from sparsify.modifiers.targeted import Sparsifying, whole_gradients
from sparsify.patterns import Pattern
from sparsify.patterns.unstructured import Unstructured
from sparsify.schedules import Ramp, Threshold, Window
from sparsify.scopes import Scope
from sparsify.scopes.tensor import TensorScope


class PruneFields(Sparsifying):
    """A criterion, a pattern, a scope, a ramp and a window, on some targets."""

    criterion: Criterion = Magnitude()
    """What a weight is worth."""

    pattern: Pattern = Unstructured()
    """Which weights live or die together."""

    scope: Scope = TensorScope()
    """Which groups compete for the same budget."""

    sparsity: Ramp | None = None
    """How much is zero, over the window. Left out for criteria that keep the zeros that are there, and with a
    `penalty.to`."""

    window: Window = Window()
    """When."""

    masking: Literal["project", "latent", "admm"] | None = None
    """What happens to pruned weights. `project` sets them to zero after every step; `latent` keeps them aside, alive,
    and lets them come back until the window ends; `admm` trains dense weights that are pulled towards a sparse copy,
    and takes that at the end of the window. Learned scores need `latent`; `project` is the default otherwise."""

    threshold: Threshold | None = None
    """Of `soft-movement`: the threshold on σ(score) over the window; by default from 0 to 0.1 along the cubic curve."""

    penalty: Penalty | None = None
    """Of criteria with gates: what pushes scores down. Left out, λ is steered so that `sparsity` is reached.
    Of `masking: admm`: λ, which pulls weights towards the sparse copy; 0.01 where it is left out."""

    finish: Literal["exact", "threshold"] | None = None
    """Of criteria with gates: at the end of the window, keep exactly the budget of `sparsity` (the default where it is
    given) or what lies above the threshold."""

    biases: Literal["with-rows"] | None = None
    """`with-rows` prunes a bias where all the weights of its row are. Heads, neurons and filters take theirs anyway."""

    @property
    def latent(self) -> bool:
        """Whether pruned weights are kept aside."""
        return self.criterion.learned or self.masking == "latent"

    @property
    def exact(self) -> bool:
        """Whether the window ends with exactly the budget."""
        return self.finish == "exact" or (self.finish is None and self.sparsity is not None)

    @property
    def dense(self) -> bool:
        """Whether the model is dense until the window ends."""
        return self.masking == "admm"

    def unfit(self, weight: Weight) -> str | None:
        if self.dense and not weight.parameter.requires_grad:
            return "is frozen, so nothing can pull it towards a sparse copy"
        if self.criterion.learned and not weight.parameter.requires_grad:
            return "is frozen, so its scores cannot be learned; `criterion: magnitude` needs no gradients"
        return whole_gradients(weight) if self.latent or self.dense else None
