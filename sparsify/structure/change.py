"""What happens to the structure of a model, as plain data: recorded in plan, state and report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsify.state_reader import StateReader


class Change:
    """What one modifier does to the structure."""

    @property
    def alters(self) -> bool:
        """Whether anything becomes different."""
        raise NotImplementedError(type(self).__name__)

    def same(self, other: Change) -> bool:
        """Whether both leave the same model."""
        raise NotImplementedError(type(self).__name__)

    def summary(self) -> str:
        """Return it in a few words."""
        raise NotImplementedError(type(self).__name__)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for people and reports."""
        raise NotImplementedError(type(self).__name__)

    def to_state(self) -> dict[str, Any]:
        """Return what a saved state has of it."""
        raise NotImplementedError(type(self).__name__)

    @staticmethod
    def from_state(state: StateReader) -> Change:
        """Read what `to_state` gave. Raises StateError."""
        return Substituted.read(state) if "norms" in state else Dropped.read(state)


@dataclass(frozen=True)
class Dropped(Change):
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

    @property
    def alters(self) -> bool:
        return bool(self.removed)

    def summary(self) -> str:
        return f"{self.stack} {self}"

    def same(self, other: Change) -> bool:
        return isinstance(other, Dropped) and (self.stack, self.layers, self.kept) == (
            other.stack,
            other.layers,
            other.kept,
        )

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
    def read(cls, state: StateReader) -> Dropped:
        """Read what `to_state` gave. Raises StateError."""
        state.exactly(("stack", "layers", "kept", "parameters", "scores"))
        layers, kept = state.integer("layers", 1), state.integers("kept")
        if not kept or kept != sorted(set(kept)) or kept[-1] >= layers:
            raise state.fail("kept", f"expected different layers of {layers}, in order")
        scores = state.any("scores")
        if not isinstance(scores, (list, tuple)) or not all(type(s) is float and math.isfinite(s) for s in scores):
            raise state.fail("scores", "expected a list of finite numbers")
        return cls(state.text("stack"), layers, tuple(kept), state.integer("parameters"), tuple(scores))


@dataclass(frozen=True)
class Substituted(Change):
    """Modules in whose place others stand, by name: norms, and activations."""

    norms: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    marked: bool = True
    """Whether the norms' weights are saved so that nobody takes them for those of a norm."""

    fields: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What the configuration says of it: (before, afterwards) by field."""

    @property
    def alters(self) -> bool:
        return bool(self.norms or self.activations)

    def same(self, other: Change) -> bool:
        mine = (self.norms, self.activations)
        return isinstance(other, Substituted) and mine == (other.norms, other.activations)

    def summary(self) -> str:
        return f"{len(self.norms)} norms and {len(self.activations)} activations substituted"

    def to_dict(self) -> dict[str, Any]:
        return self.to_state()

    def to_state(self) -> dict[str, Any]:
        return {
            "norms": list(self.norms),
            "activations": list(self.activations),
            "marked": self.marked,
            "fields": {name: list(values) for name, values in self.fields.items()},
        }

    @classmethod
    def read(cls, state: StateReader) -> Substituted:
        """Read what `to_state` gave. Raises StateError."""
        state.exactly(("norms", "activations", "marked", "fields"))
        if not isinstance(state.any("marked"), bool):
            raise state.fail("marked", "expected true or false")
        fields = state.part("fields")
        norms, activations = (_texts(state.any(key), state, key) for key in ("norms", "activations"))
        values = {name: _texts(fields.any(name), fields, name) for name in fields}
        if wrong := next((name for name, pair in values.items() if len(pair) != 2), None):
            raise fields.fail(wrong, "expected a value before and one afterwards")
        said = {name: (pair[0], pair[1]) for name, pair in values.items()}
        return cls(norms, activations, state.any("marked"), said)


def _texts(value: Any, state: StateReader, key: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise state.fail(key, "expected a list of names")
    return tuple(value)
