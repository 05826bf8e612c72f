"""The family of modifiers, and what lives while the model is trained.

A recipe holds `Modifier`s: frozen data. With a model and a clock each makes a `ModifierPlan` (nothing is changed, no
weight is read). With the model's weights it starts a `Run`, the only thing that lives and mutates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsify.durations import Duration
from sparsify.layers import Weight
from sparsify.masking.store import MaskStore
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.span import Span
from sparsify.modifiers.structural import StructureContext
from sparsify.modifiers.track import Track
from sparsify.spec import Family, gist
from sparsify.state_reader import StateReader
from sparsify.structure.change import Change


@dataclass(frozen=True)
class Session:
    """What a live modifier works with."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    """The user's."""

    masks: MaskStore
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    """What the user gave `apply` to learn what a change did to a metric."""

    bindings: dict[str, Any] = field(default_factory=dict)
    """The objects that the recipe declares and `apply` was given."""

    snapshots: Mapping[str, Any] = field(default_factory=dict)
    """What `Modifier.snapshot` has returned, by the key of the modifier."""

    shared: dict[Any, Any] = field(default_factory=dict)
    """What lives as long as the training, though runs are made anew when a state is loaded: a teacher."""

    keep: Callable[[Any], None] = lambda handle: None
    """Has the handle of a hook removed when the training is over."""

    step: Callable[[], int] = lambda: 0
    """Completed optimizer steps."""

    scale: Callable[[], float] = lambda: 1.0
    """What a GradScaler has multiplied the gradients of this step by."""


@dataclass(frozen=True)
class Needed:
    """An object that `apply` takes for a modifier: what is expected, and whether it must be there."""

    description: str
    required: bool = True


@dataclass(frozen=True)
class Wanted:
    """Some weights, and how many of them together should be zero now."""

    weights: tuple[Weight, ...]
    zeros: float


@dataclass(frozen=True)
class Shortfall:
    """A tensor, or several together, with fewer zeros than asked for."""

    name: str
    wanted: int
    found: int
    elements: int
    why: str


class Run:
    """A live modifier. Every hook does nothing unless a modifier needs it; `manager` says when each is called.

    `step` is the number of completed optimizer steps.
    """

    def __init__(self, plan: ModifierPlan) -> None:
        self.plan = plan
        self.key = plan.key

    # ------------------------------------------------------------------ stages

    def enter(self, step: int) -> None:
        """The stage begins, before anything else of the modifier happens."""

    def leave(self, step: int) -> None:
        """The stage is over; its last update has been made."""

    # ------------------------------------------------------------------ the step

    def on_step_begin(self, step: int, batch: Any) -> None:
        """Before the first forward of an optimizer step; again if that step did not come about."""

    def samples(self, step: int) -> bool:
        """Whether `on_step_begin` changes what the model computes in this step."""
        return False

    def on_loss(self, step: int, loss: Tensor, outputs: Any, inputs: Any) -> Tensor:
        """Return the loss with this modifier's terms."""
        return loss

    def needs_gradients(self, step: int) -> bool:
        """Whether it reads the gradients of this step, or adds to them: that must happen just once a step."""
        return False

    def alters_gradients(self, step: int) -> bool:
        """Whether it changes the gradients of this step, though it reads none: the optimizer must not make new ones."""
        return False

    def prepare(self, step: int) -> None:
        """Put in force what others read in `observe`, and the optimizers use: a learning rate."""

    def observe(self, step: int) -> None:
        """Look at the dense, unscaled gradients; keep what is learned from them aside until `commit`."""

    def penalise(self, step: int) -> None:
        """Add the gradients of penalties."""

    def commit(self, step: int, skipped: Collection[int]) -> None:
        """The optimizer step happened: take over what was kept aside, step own optimizers.

        `skipped` are the ids of parameters whose optimizer skipped it, though another one did not.
        """

    def rollback(self) -> None:
        """The optimizer step did not happen: drop what was kept aside."""

    def pause(self) -> None:
        """Others look at the model within a step: take out what holds for it alone; `on_step_begin` comes again."""

    # ------------------------------------------------------------------ updates

    def due(self, step: int) -> bool:
        """Whether an update is due when `step` steps are completed."""
        return False

    def update(self, step: int) -> None:
        """Make what is due; called after every completed step, due or not."""

    def last_update(self) -> int:
        """Return the step of the last update that the sparsity depends on."""
        return 0

    def sparse_copy(self) -> Iterator[tuple[Weight, Tensor]]:
        """Yield what weights that are dense by intent are about to become; nothing where the model is sparse."""
        yield from ()

    def follow(self, other: nn.Module) -> None:
        """Take another model, a copy of this one, to where this one is: what masks do not say.

        Raises StateError, and changes nothing, where it was copied too early for that.
        """

    # ------------------------------------------------------------------ what was asked for, what was found

    def wanted(self, step: int) -> Iterator[Wanted]:
        """Yield what should be zero now; nothing before the first update, or of what has no target."""
        yield from ()

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        """Compare what was asked for, in the end or (`partial`) by the last update, with the tensors themselves."""
        return []

    def report(self) -> dict[str, Any]:
        """Return what was found out on the way, as plain data, for the report."""
        return {}

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on, as plain data and tensors."""
        return {}

    def check_state(self, state: StateReader, step: int) -> None:
        """Raise StateError, and change nothing, for a state of this step that `load_state_dict` cannot take up."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that was checked; masks are in force already."""


class Modifier(Family):
    """Something that acts on a model while it is trained."""

    family: ClassVar[str] = "modifier"

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    """What state, plans and reports call it; by default its type."""

    def explain(self) -> list[str]:
        """Return what it does in plain sentences."""
        return [gist(self)]

    def durations(self) -> list[Duration]:
        """Return what a run must be long enough for."""
        return []

    def track(self, span: Span, most: int) -> Track | None:
        """Return when it acts in a stage, and its sparsity in at most `most` points; None where nothing is to be shown.

        Raises ClockError for a window that does not fit into the stage.
        """
        return None

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        """Return, in sentences, what the `report` of a run of this type says; nothing of another type's."""
        return []

    def bindings(self) -> dict[str, Needed]:
        """Return the objects that `apply` takes for it, by name."""
        return {}

    def changes_loss(self) -> bool:
        """Whether its run needs `on_loss`."""
        return False

    def snapshot(self, model: nn.Module) -> Any:
        """Return what it needs of the model as it is before anything changes; its runs find it in the session."""
        return None

    def restructures(self) -> bool:
        """Whether it changes what the model is made of."""
        return False

    def choose(self, model: nn.Module, context: StructureContext) -> Change | None:
        """Return what it will change of the model's structure, or None after reporting problems to the context.

        Nothing is changed yet. Where `context.measures`, it may run the model on data.
        """
        return None

    def restructure(self, model: nn.Module, change: Change) -> list[nn.Parameter]:
        """Make a change that `choose` has returned, once, before the model is wrapped, or given a saved state.

        Returns the parameters that are not the model's any more.
        """
        raise NotImplementedError(type(self).__name__)

    def plan(self, context: PlanContext) -> ModifierPlan | None:
        """Return the plan, or None after reporting problems to the context."""
        raise NotImplementedError(type(self).__name__)

    def make_run(self, plan: Any, session: Session) -> Run:
        """Return the live modifier of a plan that `plan` made."""
        raise NotImplementedError(type(self).__name__)
