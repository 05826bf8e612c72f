"""What every logger is told beside the loss."""

from __future__ import annotations

from sparsify import Manager


def metrics(manager: Manager) -> dict[str, float]:
    """Return `sparsity`, `target_sparsity` and, where the recipe sets it, `effective_learning_rate`."""
    values = {"sparsity": manager.sparsity}
    if (target := manager.target) is not None:
        values["target_sparsity"] = target
    if (rate := manager.learning_rate) is not None:
        values["effective_learning_rate"] = rate
    return values
