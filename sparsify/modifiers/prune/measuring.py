"""What a change of the model at once did: the user's metrics before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from sparsify.state_reader import StateReader


def measured(evaluate: Callable[[nn.Module], Mapping[str, float]], model: nn.Module) -> dict[str, float]:
    """Return what `evaluate` finds; the model stays in its mode, and the generators where they are."""
    training = model.training
    try:
        with torch.random.fork_rng(), torch.no_grad():
            return {name: float(value) for name, value in evaluate(model).items()}
    finally:
        model.train(training)


def check_findings(found: StateReader) -> None:
    """Raise StateError for findings that are not those of ending gates."""
    for key in found.within(("sparsity_at_threshold", "sparsity", "lambda", "metrics")):
        if key == "lambda":
            strengths = found.part(key)
            for name in strengths:
                strengths.number(name)
        elif key == "metrics":
            metrics = found.part(key).exactly(("at_threshold", "after"))
            for side in (metrics.part("at_threshold"), metrics.part("after")):
                for name in side:
                    side.measured(name)
        else:
            found.number(key)
