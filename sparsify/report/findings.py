"""What modifiers found out on the way, for people: how a penalty was steered, what ending gates did, what grew back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sparsify.report.written import Found, Written


def findings(report: Written | Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (modifier, sentence) from a report; none from one that is not as ours are written."""
    try:
        written = report if isinstance(report, Written) else Written.model_validate(report)
    except ValidationError:
        return []
    return [
        (key.rpartition("/")[2], sentence)
        for key, found in written.modifiers.items()
        for sentence in (*_gates(found), *_fill(found))
    ]


def _gates(found: Found) -> list[str]:
    before, after = found.sparsity_at_threshold, found.sparsity
    if before is None or after is None:
        return []
    strengths = sorted(found.strengths.values())
    ends = " to ".join(f"{strength:.3g}" for strength in dict.fromkeys((*strengths[:1], *strengths[-1:])))
    shown = f" (λ {ends})" if strengths else ""
    lines = [f"the threshold alone pruned {before:.2%}{shown}; the masks kept prune {after:.2%}"]
    if found.metrics is not None:
        then, now = found.metrics.at_threshold, found.metrics.after
        changes = (f"{name} {value:.4f} → {now[name]:.4f}" for name, value in then.items() if name in now)
        lines.append(f"what that did: {', '.join(changes)}")
    return lines


def _fill(found: Found) -> list[str]:
    if found.returned is None:
        return []
    return [f"{found.returned:,} weights may grow again, {found.pruned:,} of dead heads and neurons stay pruned"]
