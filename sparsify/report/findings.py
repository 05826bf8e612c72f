"""What modifiers found out on the way, for people: how a penalty was steered, what ending gates did, what grew back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def findings(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (modifier, sentence) from a `report.json`."""
    return [
        (key.rpartition("/")[2], sentence)
        for key, found in report.get("modifiers", {}).items()
        for sentence in (*_gates(found), *_fill(found))
    ]


def _gates(found: Mapping[str, Any]) -> list[str]:
    if "sparsity_at_threshold" not in found:
        return []
    before, after = found["sparsity_at_threshold"], found["sparsity"]
    strengths = sorted(found["lambda"].values())
    shown = f"{strengths[0]:.3g}" if len(strengths) == 1 else f"{strengths[0]:.3g} to {strengths[-1]:.3g}"
    told = [f"the threshold alone pruned {before:.2%} (λ {shown}); the masks kept prune {after:.2%}"]
    metrics = found.get("metrics")
    if metrics:
        changes = (
            f"{name} {value:.4f} → {metrics['after'][name]:.4f}" for name, value in metrics["at_threshold"].items()
        )
        told.append(f"what that did: {', '.join(changes)}")
    return told


def _fill(found: Mapping[str, Any]) -> list[str]:
    if "returned" not in found:
        return []
    return [f"{found['returned']:,} weights may grow again, {found['pruned']:,} of dead heads and neurons stay pruned"]
