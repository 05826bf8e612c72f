"""What the sparse engine makes of a plan, on the processor that the plan is read on."""

from __future__ import annotations

from typing import Any

from sparsify import break_even
from sparsify.plan.plan import Plan

ROWS = 4


def words(plan: Plan) -> str | None:
    """Return from how many zeros on the engine is faster, and how fast it is on most of these; None where none suit it.

    It suits zeros at single places and in blocks; whole heads, neurons and channels leave the model without it.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for modifier in plan.modifiers:
        pattern: Any = getattr(getattr(modifier, "spec", None), "pattern", None)
        elements = sum(tensor.elements for tensor in modifier.tensors)
        folded = sum(tensor.elements for tensor in modifier.tensors if len(tensor.shape) > 2)
        kernel = _kernel(pattern, of_convolutions=2 * folded > elements)
        if modifier.nonzeros is not None and kernel is not None:
            found.setdefault(kernel, []).append((elements, modifier.nonzeros))
    if not found:
        return None
    kernel = max(found, key=lambda name: sum(size for size, _ in found[name]))
    elements, nonzeros = map(sum, zip(*found[kernel], strict=True))
    zeros = 1 - nonzeros / max(elements, 1)
    return break_even.sentence(zeros, kernel=kernel) if zeros >= break_even.LEAST else None


def _kernel(pattern: Any, of_convolutions: bool) -> str | None:
    """Return the engine's kernel for a pattern, by its name in the table; None where the engine is not for it."""
    kind = getattr(pattern, "type", None)
    if kind not in (break_even.ANYWHERE, "block", "n:m"):
        return None
    if of_convolutions:
        return break_even.CONVOLUTION
    return f"{ROWS} × 1" if kind == "block" and pattern.shape[0] % ROWS == 0 else break_even.ANYWHERE
