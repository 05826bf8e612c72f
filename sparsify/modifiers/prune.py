"""`prune`: a criterion, a pattern, a scope, a ramp and a window, on some targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from sparsify.criteria import Criterion
from sparsify.criteria.learned import Gated, Learned
from sparsify.criteria.magnitude import Magnitude
from sparsify.durations import Duration
from sparsify.layers import Weight
from sparsify.masking import Competition
from sparsify.modifiers.base import PlanContext
from sparsify.modifiers.clock import ClockError
from sparsify.modifiers.penalty import Penalty
from sparsify.modifiers.prune_checks import conflicts
from sparsify.modifiers.prune_plan import Pressure, PrunePlan, expect
from sparsify.modifiers.prune_words import sentences
from sparsify.modifiers.targeted import Targeted, report, whole_gradients
from sparsify.patterns import Pattern
from sparsify.patterns.base import Misfit
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.unstructured import Unstructured
from sparsify.schedules import Ramp, Threshold, Window
from sparsify.schedules.window import StepWindow
from sparsify.scopes import Scope
from sparsify.scopes.tensor import TensorScope
from sparsify.spec import fail_at

GIVEN = frozenset({"scores", "statistics"})
"""What `prune` gives to criteria that need it."""

LONG = 5000
"""Optimizer steps below which equal starts are warned of: whole models collapse at 2,600, two layers lose 1.8 points at
3,464 and half a point at 6,928, published runs have 50,000."""

COARSE = 0.005
"""By how much a model may become sparser than asked for without a note."""


class Prune(Targeted):
    """Set the least valuable weights to zero, gradually, and keep them there."""

    type: Literal["prune"] = "prune"

    criterion: Criterion = Magnitude()
    """What a weight is worth."""

    pattern: Pattern = Unstructured()
    """Which weights live or die together."""

    scope: Scope = TensorScope()
    """Who competes with whom."""

    sparsity: Ramp | None = None
    """How much, over the window. Left out for criteria that keep the zeros that are there, and with a `penalty.to`."""

    window: Window = Window()
    """When."""

    masking: Literal["project", "latent"] | None = None
    """What happens to pruned weights. `project` sets them to zero after every step; `latent` keeps them aside, alive,
    and lets them come back until the window ends. Learned scores need `latent`; `project` is the default otherwise."""

    threshold: Threshold | None = None
    """Of `soft-movement`: the threshold on σ(score) over the window; by default from 0 to 0.1 along the cubic curve."""

    penalty: Penalty | None = None
    """Of criteria with gates: what pushes scores down. Left out, λ is steered so that `sparsity` is reached."""

    finish: Literal["exact", "threshold"] | None = None
    """Of criteria with gates: at the end of the window, keep exactly the budget of `sparsity` (the default where it is
    given) or what lies above the threshold."""

    biases: Literal["with-rows"] | None = None
    """`with-rows` prunes a bias where all the weights of its row are. Heads, neurons and filters take theirs anyway."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        for key, message in conflicts(self):
            raise fail_at("Prune", (key,) if key else (), message, None)
        return self

    @property
    def latent(self) -> bool:
        """Whether pruned weights are kept aside."""
        return self.criterion.learned or self.masking == "latent"

    @property
    def exact(self) -> bool:
        """Whether the window ends with exactly the budget."""
        return self.finish == "exact" or (self.finish is None and self.sparsity is not None)

    def explain(self) -> list[str]:
        return sentences(self)

    def plan(self, context: PlanContext) -> PrunePlan | None:
        before = len(context.problems)
        if needs := sorted(self.criterion.needs - GIVEN):
            context.problem(
                f"the criterion {self.criterion.type!r} needs {', '.join(needs)}, which `prune` cannot give yet",
                "criterion",
            )
        window = self._window(context)
        pressure = self._pressure(context, window)
        bundles = self._bundles(context)
        if window is None or len(context.problems) > before:
            return None
        competition = Competition.of(bundles, self.criterion, self.pattern, self.scope, context.anatomy)
        target = self.sparsity.to if self.sparsity else None
        if target is not None and (reason := competition.impossible(target)):
            context.problem(reason, "sparsity")
            return None
        tensors, nonzeros = expect(competition, target)
        _note_coarseness(context, target, nonzeros, sum(tensor.elements for tensor in tensors))
        facts = {
            "criterion": self.criterion.label(),
            "pattern": self.pattern.label(),
            "scope": self.scope.label(),
            "curve": self.sparsity.curve.label() if self.sparsity else "constant",
        }
        if pressure is not None:
            facts["curve"] = f"λ to {pressure.level.to:g}"
        biases = own_biases(bundles) if self.biases == "with-rows" else {}
        _note_start(self, context, window)
        _note_reach(self, context, window)
        return PrunePlan(
            key=context.key,
            type=self.type,
            window=window,
            tensors=tensors,
            nonzeros=nonzeros,
            facts=facts,
            weights=tuple(part.weight for bundle in bundles for part in bundle.parts),
            followers=tuple(biases.values()),
            spec=self,
            competition=competition,
            begin=context.span.begin,
            pressure=pressure,
            biases=biases,
        )

    def _window(self, context: PlanContext) -> StepWindow | None:
        """Resolve the window; a lock and a curve of one shot have one update, at its beginning."""
        lock, curve = self.criterion.keeps_zeros, self.sparsity.curve if self.sparsity else None
        once = lock or (curve is not None and curve.once)
        jumps = curve is not None and curve.jumps and not self.criterion.gated
        written = self.window
        if once and written.end is not None:
            what = f"the curve {curve.type!r}" if curve is not None else "a lock"
            context.problem(f"{what} has one update, at `begin`: leave `end` out", "window", "end")
            return None
        if once or (jumps and written.end is None):
            written = written.model_copy(update={"end": written.begin})
        try:
            window = context.span.window(written)
        except ClockError as error:
            context.problem(str(error), "window", *([error.key] if error.key else []))
            return None
        if self.criterion.learned and window.end == context.span.begin:
            context.problem("the window ends where the stage begins: scores have no time to learn", "window")
        if lock or jumps:
            return window
        if window.end == window.begin:
            context.problem(f"the window is empty: it begins and ends at step {window.begin}", "window")
        elif window.count() < 3 and (self.sparsity is None or self.sparsity.from_ != self.sparsity.to):
            message = (
                f"the ramp is a cliff: in the {window.end - window.begin} steps of the window there is no update "
                f"between its ends (every {window.every}); update more often, or write `curve: constant`"
            )
            context.problem(message, "window", "every")
        return window

    def _pressure(self, context: PlanContext, window: StepWindow | None) -> Pressure | None:
        """Resolve a penalty that is not steered."""
        level = self.penalty.level if self.penalty else None
        if self.penalty is None or level is None or window is None:
            return None
        begin, end = self.penalty.begin, self.penalty.end
        try:
            own = context.span.window(Window(begin=begin or Duration(0), end=end))
        except ClockError as error:
            context.problem(str(error), "penalty", *([error.key] if error.key else []))
            return None
        first = own.begin if begin is not None else window.begin
        last = own.end if end is not None else window.end
        if last <= first and level.from_ != level.to:
            context.problem(
                f"the penalty's ramp is a cliff: it begins at step {first} and ends at step {last}", "penalty"
            )
        return Pressure(StepWindow(first, max(first, last), 1), level)

    def _bundles(self, context: PlanContext) -> list[Bundle]:
        """Resolve the targets, and cut them as the pattern wants; report what does not fit."""
        bundles = self.cut(context, self.select(context, self.pattern.role), self.pattern)
        misfits = []
        if self.scope.by_row and (ragged := tuple(bundle.name for bundle in bundles if bundle.sizes is not None)):
            misfits.append(Misfit("in a row, all groups must be of one size", ragged, "scope"))
        if self.scope.needs_anatomy() and context.anatomy is None:
            misfits.append(Misfit(f"{self.scope.needs_anatomy()} needs an architecture that is known", key="scope"))
        report(context, misfits)
        return bundles

    def unfit(self, weight: Weight) -> str | None:
        if self.criterion.learned and not weight.parameter.requires_grad:
            return "is frozen, so its scores cannot be learned"
        return whole_gradients(weight) if self.latent else None


def _note_start(prune: Prune, context: PlanContext, window: StepWindow) -> None:
    """Warn of scores that start alike in a short run: the first masks are made almost at random."""
    criterion = prune.criterion
    steps = window.end - context.span.begin
    if isinstance(criterion, Learned) and criterion.init != "magnitude" and steps < LONG:
        context.notes.append(
            f"{context.key}: scores that start at {criterion.init} have {steps} steps to learn, and Adam moves all of "
            f"them alike at first; in a run this short `init: magnitude` is better"
        )


def _note_reach(prune: Prune, context: PlanContext, window: StepWindow) -> None:
    """Warn of gates that have too little time to close: Adam moves a score by its learning rate a step at most."""
    criterion = prune.criterion
    if not isinstance(criterion, Gated) or prune.sparsity is None or criterion.optimizer != "adam":
        return
    steps = window.end - context.span.begin
    need = abs(criterion.distance())
    if criterion.learning_rate * steps / 2 < need:  # half, for the user's learning rate falls and ramps begin late
        rate = 2 * need / max(steps, 1)
        context.notes.append(
            f"{context.key}: in {steps} steps at a learning rate of {criterion.learning_rate:g} scores cannot travel "
            f"the {need:.1f} to their threshold; `learning_rate: {rate:.2g}` would let them"
        )


def own_biases(bundles: Sequence[Bundle]) -> dict[str, Weight]:
    """Return the biases of the matrices (by their names) that no bundle has already."""
    taken = {part.weight.name for bundle in bundles for part in bundle.parts}
    found = {part.weight.name: part.weight.bias() for bundle in bundles for part in bundle.parts}
    return {name: bias for name, bias in found.items() if bias is not None and bias.name not in taken}


def _note_coarseness(context: PlanContext, target: float | None, nonzeros: int | None, elements: int) -> None:
    """Say so where whole groups make a model sparser than was asked for."""
    if target is not None and nonzeros is not None and elements:
        reached = 1 - nonzeros / elements
        if reached > target + COARSE:
            context.notes.append(f"{context.key}: whole groups make {reached:.2%} of the {target:.2%} asked for")
