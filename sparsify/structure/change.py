"""What happens to a stack of layers, as plain data: recorded in plan, state and report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sparsify.state_reader import StateReader


@dataclass(frozen=True)
class Change:
    """The layers of a stack that stay, by the numbers that they had before; the i-th of them becomes layer i."""

    stack: str
    layers: int
    """How many there were."""

    kept: tuple[int, ...]
    parameters: int = 0
    """How many parameters leave the model."""

    scores: tuple[float, ...] = ()
    """What was measured, where data decided: of each layer, or of the block that begins with it."""

    chosen: bool = True
    """False in a plan where data will decide: `kept` are only as many as there will be."""

    @property
    def removed(self) -> tuple[int, ...]:
        """The layers that go."""
        return tuple(number for number in range(self.layers) if number not in self.kept)

    def same(self, other: Change) -> bool:
        """Whether both leave the same layers of the same stack."""
        return (self.stack, self.layers, self.kept) == (other.stack, other.layers, other.kept)

    def __str__(self) -> str:
        if not self.chosen:
            return f"{len(self.kept)} of {self.layers}, chosen at apply"
        return f"{len(self.kept)} of {self.layers}: {', '.join(map(str, self.kept))}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, with the way from old numbers to new ones."""
        return {
            "stack": self.stack,
            "layers": self.layers,
            "kept": list(self.kept) if self.chosen else None,
            "removed": list(self.removed) if self.chosen else None,
            "numbers": {str(old): new for new, old in enumerate(self.kept)} if self.chosen else None,
            "count": len(self.kept),
            "parameters": self.parameters,
            "scores": list(self.scores),
        }

    def to_state(self) -> dict[str, Any]:
        """Return what a saved state has of it."""
        return {
            "stack": self.stack,
            "layers": self.layers,
            "kept": list(self.kept),
            "parameters": self.parameters,
            "scores": list(self.scores),
        }

    @classmethod
    def from_state(cls, state: StateReader) -> Change:
        """Read what `to_state` gave. Raises StateError."""
        state.exactly(("stack", "layers", "kept", "parameters", "scores"))
        layers, kept = state.integer("layers", 1), state.integers("kept")
        if not kept or kept != sorted(set(kept)) or kept[-1] >= layers:
            raise state.fail("kept", f"expected different layers of {layers}, in order")
        scores = state.any("scores")
        if not isinstance(scores, (list, tuple)) or not all(type(s) is float and math.isfinite(s) for s in scores):
            raise state.fail("scores", "expected a list of finite numbers")
        return cls(state.text("stack"), layers, tuple(kept), state.integer("parameters"), tuple(scores))
