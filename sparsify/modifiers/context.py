"""What a modifier is given to plan with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparsify.anatomy import Anatomy
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.span import Span
from sparsify.structure.change import Change


@dataclass
class PlanContext:
    """The model, the stage, and what stands before. Problems are collected, so that all are reported at once."""

    model: nn.Module
    span: Span
    key: str
    """What state, plans and reports call the modifier: `stage/name`, or its name where the recipe names no stage."""

    anatomy: Anatomy | None = None
    """The model by role; None where it has no matrix."""

    earlier: Sequence[ModifierPlan] = ()
    """What stands before it in the recipe, planned."""

    changes: Mapping[str, Change] = field(default_factory=dict)
    """What modifiers change of the structure, by key; the model is as it is after that."""

    example_inputs: Any = None
    """What the model's forward takes, where somebody says so; for what must see one."""

    problems: list[tuple[tuple[str | int, ...], str]] = field(default_factory=list)
    """(path below the modifier, sentence)."""

    notes: list[str] = field(default_factory=list)

    @property
    def layered(self) -> bool:
        """Whether the model has layers: something repeats in it."""
        return self.anatomy is not None and bool(self.anatomy.layers)

    def problem(self, message: str, *path: str | int) -> None:
        """Report that the recipe does not fit."""
        self.problems.append((path, message))
