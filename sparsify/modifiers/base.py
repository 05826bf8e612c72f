"""The family of modifiers: frozen specs, what they plan, and what runs.

A recipe holds `Modifier`s. With a model and a clock each makes a `ModifierPlan` (nothing is changed, no
weight is read). With the model's weights the plan starts a `Run`, the only thing that lives and mutates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsify.anatomy import Anatomy
from sparsify.layers import Weight
from sparsify.masking.store import MaskStore
from sparsify.modifiers.clock import Span
from sparsify.schedules.window import StepWindow
from sparsify.spec import Family, gist


@dataclass
class PlanContext:
    """What a modifier is given to plan with. Problems are collected, so that all are reported at once."""

    model: nn.Module
    span: Span
    key: str
    """`stage/name`: what state and reports call the modifier."""

    anatomy: Anatomy | None = None
    """The model by role, where its architecture is known."""

    earlier: Sequence[ModifierPlan] = ()
    """What stands before it in the recipe, planned."""

    problems: list[tuple[tuple[str | int, ...], str]] = field(default_factory=list)
    """(path below the modifier, sentence)."""

    notes: list[str] = field(default_factory=list)

    def problem(self, message: str, *path: str | int) -> None:
        """Report that the recipe does not fit."""
        self.problems.append((path, message))


@dataclass(frozen=True)
class TensorPlan:
    """What will happen to one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    target: float | None
    """Final sparsity; None where it depends on weights that are not there."""

    nonzeros: int | None
    """Expected non-zero weights at the end; None where tensors compete or weights are unknown."""

    bundle: str
    """The tensors of one bundle are pruned together: a tensor's own name, or that of an attention block, …"""

    groups: int
    """How many groups live or die in it."""


@dataclass(frozen=True)
class ModifierPlan:
    """A modifier resolved to steps and tensors."""

    key: str
    type: str
    window: StepWindow
    tensors: tuple[TensorPlan, ...]
    nonzeros: int | None
    """Expected non-zero weights of all its tensors together."""

    facts: Mapping[str, str]
    """What people want to read beside it: criterion, pattern, scope, …"""

    weights: tuple[Weight, ...] = ()

    followers: tuple[Weight, ...] = ()
    """What is masked with the weights, but not counted among them: biases of empty rows."""

    def start(self, session: Session) -> Run:
        """Return the live modifier."""
        raise NotImplementedError(type(self).__name__)

    def unknown(self) -> str:
        """Return what the plan says in place of a target where there is none."""
        return "existing zeros"

    def clash(self, later: ModifierPlan) -> str | None:
        """Return why `later` cannot act on a tensor of ours after our window, or None."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "key": self.key,
            "type": self.type,
            "begin": self.window.begin,
            "end": self.window.end,
            "every": self.window.every,
            "updates": self.window.count(),
            **self.facts,
            "expected_nonzeros": self.nonzeros,
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "dtype": tensor.dtype,
                    "elements": tensor.elements,
                    "target": tensor.target,
                    "expected_nonzeros": tensor.nonzeros,
                    "bundle": tensor.bundle,
                    "groups": tensor.groups,
                }
                for tensor in self.tensors
            ],
        }


@dataclass(frozen=True)
class Session:
    """What a live modifier works with."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    """The user's."""

    masks: MaskStore
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    """What the user gave `apply` to learn what a change did to a metric."""


class Run:
    """A live modifier. Every hook does nothing unless a modifier needs it; see the order in `manager`."""

    def __init__(self, plan: ModifierPlan) -> None:
        self.key = plan.key

    def on_step_begin(self, step: int, batch: Any) -> None:
        """Before the first forward of optimizer step `step` (0-based)."""

    def on_loss(self, loss: Tensor, outputs: Any, inputs: Any) -> Tensor:
        """Return the loss with this modifier's terms."""
        return loss

    def observe(self) -> None:
        """Look at the dense, unscaled gradients; stage what is learned from them until `commit`."""

    def penalise(self) -> None:
        """Add the gradients of penalties."""

    def commit(self, step: int) -> None:
        """The optimizer step happened: keep what was staged, step own optimizers."""

    def rollback(self) -> None:
        """The optimizer step did not happen: drop what was staged."""

    def update(self, step: int) -> bool:
        """Make what is due when `step` steps are completed; return whether masks changed."""
        return False

    def last_update(self) -> int:
        """Return the step of the last update that the sparsity depends on."""
        return 0

    def sparsity(self, step: int) -> float | None:
        """Return the sparsity wanted when `step` steps are completed, or None before the window."""
        return None

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        """Compare what was asked for, in the end or (`partial`) by the last update, with the tensors themselves."""
        return []

    def report(self) -> dict[str, Any]:
        """Return what was found out on the way, as plain data, for the report."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on, as plain data and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state."""


@dataclass(frozen=True)
class Shortfall:
    """A tensor, or several together, with fewer zeros than asked for."""

    name: str
    wanted: int
    found: int
    elements: int
    why: str


class Modifier(Family):
    """Something that acts on a model while it is trained."""

    family: ClassVar[str] = "modifier"

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    """By default the type; state and reports are kept under it."""

    def explain(self) -> list[str]:
        """Return what it does in plain sentences."""
        return [gist(self)]

    def restructure(self, model: nn.Module) -> None:
        """Change what the model is made of, once, before it is planned, wrapped, or given a saved state."""

    def plan(self, context: PlanContext) -> ModifierPlan | None:
        """Return the plan, or None after reporting problems to the context."""
        raise NotImplementedError(type(self).__name__)
