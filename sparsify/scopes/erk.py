"""ERK scope: a sparsity for every tensor from its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from sparsify.scopes.base import Arena, BundleFacts, Pooled


class ErkScope(Pooled):
    """Erdős–Rényi-kernel: density ∝ (sum of the dimensions) ÷ (their product), scaled to the sparsity asked for.

    Small tensors stay denser than large ones. Where a density would leave its bounds (1, the floor, the
    ceiling, what the pattern allows) it is set to that bound, and the rest is scaled again.
    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (2020), §3.
    """

    type: Literal["erk"] = "erk"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"ceiling": 0.9, "within": "role"},)

    def shares(self, sparsity: float, arena: Arena, facts: Sequence[BundleFacts]) -> list[tuple[Arena, float]]:
        floor, ceiling = self.bounds(sparsity)
        members = [facts[index] for index in arena]
        lowest = [1 - min(ceiling, member.most) for member in members]
        highest = [max(1 - floor, low) for low in lowest]
        wanted = (1 - sparsity) * sum(member.elements for member in members)

        def densities(scale: float) -> list[float]:
            raw = (scale * member.perimeter / max(member.elements, 1) for member in members)
            return [min(max(value, low), high) for value, low, high in zip(raw, lowest, highest, strict=True)]

        def kept(scale: float) -> float:
            return sum(d * member.elements for d, member in zip(densities(scale), members, strict=True))

        low, high = 0.0, 1.0
        while kept(high) < wanted and high < 1e30:
            high *= 2
        for _ in range(100):  # monotone in the scale, so that masks nest as sparsity rises
            middle = (low + high) / 2
            low, high = (low, middle) if kept(middle) >= wanted else (middle, high)
        return [([index], 1 - density) for index, density in zip(arena, densities(high), strict=True)]
