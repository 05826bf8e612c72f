"""Movement: weights that move away from zero while the model is trained."""

from __future__ import annotations

from typing import Literal

from sparsify.criteria.learned import Learned


class Movement(Learned):
    """S ← S − α·Σ ∂L/∂W′·W; the budget keeps the highest (hard movement pruning).

    Scores that start at zero all move by the same amount under Adam at first, and a short training prunes almost at
    random:
    start at `magnitude` unless the training is long.
    Source: Sanh, Wolf & Rush, "Movement Pruning" (2020), §4; blocks: Lagunas et al. (2021), §3.
    """

    type: Literal["movement"] = "movement"
