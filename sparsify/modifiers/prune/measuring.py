"""What a change of the model at once did: the user's metrics before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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


def sentences_of(found: Mapping[str, Any]) -> list[str]:
    """Return what ending gates did, in sentences: from findings that were checked."""
    before, after = found.get("sparsity_at_threshold"), found.get("sparsity")
    if before is None or after is None:
        return []
    strengths = sorted((found.get("lambda") or {}).values())
    ends = " to ".join(f"{strength:.3g}" for strength in dict.fromkeys((*strengths[:1], *strengths[-1:])))
    shown = f" (λ {ends})" if strengths else ""
    lines = [f"the threshold alone pruned {before:.2%}{shown}; the final masks prune {after:.2%}"]
    metrics = found.get("metrics")
    if metrics:
        then, now = metrics["at_threshold"], metrics["after"]
        changes = (f"{name} {value:.4f} → {now[name]:.4f}" for name, value in then.items() if name in now)
        lines.append(f"metrics before and after: {', '.join(changes)}")
    return lines
