"""What a modifier is given to decide on a change of structure with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsify.anatomy import Anatomy
from sparsify.structure.change import Change


@dataclass
class StructureContext:
    """The model by role, and what is known before. Problems are collected, so that all are reported at once."""

    key: str
    """What state, plans and reports call the modifier: `stage/name`, or its name where the recipe names no stage."""

    anatomy: Anatomy | None = None
    bindings: Mapping[str, Any] = field(default_factory=dict)
    """The objects that were given: data to measure on."""

    measures: bool = False
    """Whether the model may be run on data; False while one only plans."""

    earlier: Change | None = None
    """What was decided when the saved training began, which is gone on with."""

    others: Mapping[str, Change] = field(default_factory=dict)
    """What modifiers before it have decided, by key."""

    problems: list[tuple[tuple[str | int, ...], str]] = field(default_factory=list)
    """(path below the modifier, sentence)."""

    def problem(self, message: str, *path: str | int) -> None:
        """Report that the recipe does not fit."""
        self.problems.append((path, message))
