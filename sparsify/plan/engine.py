"""What the sparse engine makes of a plan, on the processor that the plan is read on."""

from __future__ import annotations

from typing import Any

from sparsify import break_even
from sparsify.plan.plan import Plan

ANYWHERE, ROWS = "unstructured", 4


def words(plan: Plan) -> str | None:
    """Return from how many zeros on the engine is faster, and how fast it is on most of these; None where none suit it.

    It suits zeros at single places and in blocks; whole heads, neurons and channels leave the model without it.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for modifier in plan.modifiers:
        pattern: Any = getattr(getattr(modifier, "spec", None), "pattern", None)
        if modifier.nonzeros is not None and (kernel := _kernel(pattern)) is not None:
            elements = sum(tensor.elements for tensor in modifier.tensors)
            found.setdefault(kernel, []).append((elements, modifier.nonzeros))
    if not found:
        return None
    kernel = max(found, key=lambda name: sum(size for size, _ in found[name]))
    elements, nonzeros = map(sum, zip(*found[kernel], strict=True))
    zeros = 1 - nonzeros / max(elements, 1)
    return break_even.sentence(zeros, kernel=kernel) if zeros >= break_even.LEAST else None


def _kernel(pattern: Any) -> str | None:
    """Return the engine's kernel for a pattern, by its name in the table; None where the engine is not for it."""
    kind = getattr(pattern, "type", None)
    if kind == "block":
        return f"{ROWS} × 1" if pattern.shape[0] % ROWS == 0 else ANYWHERE
    return ANYWHERE if kind in (ANYWHERE, "n:m") else None
