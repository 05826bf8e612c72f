"""`prune`: a criterion, a pattern, a scope, a ramp and a window, on some targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator
from typing_extensions import Self

from sparsify.criteria import Criterion
from sparsify.criteria.magnitude import Magnitude
from sparsify.layers import Weight, aliases, unsuitable
from sparsify.masking import Competition
from sparsify.modifiers.base import Modifier, PlanContext
from sparsify.modifiers.clock import ClockError
from sparsify.modifiers.prune_plan import PrunePlan, expect
from sparsify.modifiers.prune_words import sentences
from sparsify.patterns import Pattern
from sparsify.patterns.base import Misfit
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.unstructured import Unstructured
from sparsify.schedules import Ramp, Window
from sparsify.schedules.window import StepWindow
from sparsify.scopes import Scope
from sparsify.scopes.tensor import TensorScope
from sparsify.selectors import Layers, Selectors
from sparsify.spec import fail_at
from sparsify.targets import Targets

TOLERANCE = 1e-9
COARSE = 0.005
"""By how much a model may become sparser than asked for without a note."""


class Prune(Modifier):
    """Set the least valuable weights to zero, gradually, and keep them there."""

    type: Literal["prune"] = "prune"

    targets: Selectors | None = None
    """Roles (`attention`, `ffn.down`), modules by name (glob, `re:`) or `type:`.

    Left out, or `default`: every linear and convolutional weight except embeddings and task head, where the
    architecture is known.
    """

    exclude: Selectors | None = None
    """What is not meant, though `targets` match it."""

    layers: Layers | None = None
    """Only what lies in these layers, counted from 0: `3`, `0-5`, or a list; where the architecture is known."""

    criterion: Criterion = Magnitude()
    """What a weight is worth."""

    pattern: Pattern = Unstructured()
    """Which weights live or die together."""

    scope: Scope = TensorScope()
    """Who competes with whom."""

    sparsity: Ramp | None = None
    """How much, over the window. Left out only for criteria that keep the zeros that are there."""

    window: Window = Window()
    """When."""

    masking: Literal["project"] = "project"
    """What happens to pruned weights: `project` sets them to zero after every step; gradients stay dense."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.criterion.keeps_zeros and self.sparsity is not None:
            message = f"the criterion {self.criterion.type!r} keeps the zeros that are there: it takes no sparsity"
            raise fail_at("Prune", ("sparsity",), message, None)
        if not self.criterion.keeps_zeros and self.sparsity is None:
            raise fail_at("Prune", (), "missing key 'sparsity'", None)
        return self

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.sparsity is not None:
            for what, most in (("pattern", self.pattern.most()), ("scope", self.scope.highest())):
                if self.sparsity.to > most + TOLERANCE:
                    message = f"the {what} allows a sparsity of at most {most:g}, got {self.sparsity.to:g}"
                    raise fail_at("Prune", ("sparsity",), message, None)
        return self

    @model_validator(mode="after")
    def _axes_go_together(self) -> Self:
        if self.criterion.keeps_zeros and self.pattern.period() > 1:
            message = (
                f"the criterion {self.criterion.type!r} keeps what is there, it cannot make {self.pattern.label()}; "
                "leave `pattern` out"
            )
            raise fail_at("Prune", ("pattern",), message, None)
        if self.scope.by_row and not self.pattern.by_row:
            message = f"the scope {self.scope.type!r} ranks what is inside a row; a {self.pattern.type} is not"
            raise fail_at("Prune", ("scope",), message, None)
        return self

    def explain(self) -> list[str]:
        return sentences(self)

    def plan(self, context: PlanContext) -> PrunePlan | None:
        before = len(context.problems)
        if self.criterion.needs:
            needs = ", ".join(sorted(self.criterion.needs))
            context.problem(
                f"the criterion {self.criterion.type!r} needs {needs}, which `prune` cannot give yet", "criterion"
            )
        window = self._window(context)
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
        return PrunePlan(
            key=context.key,
            type=self.type,
            window=window,
            tensors=tensors,
            nonzeros=nonzeros,
            facts=facts,
            weights=tuple(part.weight for bundle in bundles for part in bundle.parts),
            ramp=self.sparsity,
            competition=competition,
        )

    def _window(self, context: PlanContext) -> StepWindow | None:
        """Resolve the window; a lock and a curve of one shot have one update, at its beginning."""
        once = self.sparsity is None or self.sparsity.curve.once
        written = self.window
        if once and written.end is not None:
            what = "a lock" if self.sparsity is None else f"the curve {self.sparsity.curve.type!r}"
            context.problem(f"{what} has one update, at `begin`: leave `end` out", "window", "end")
            return None
        if once or (self.sparsity and self.sparsity.curve.jumps and written.end is None):
            written = written.model_copy(update={"end": written.begin})
        try:
            window = context.span.window(written)
        except ClockError as error:
            context.problem(str(error), "window", *([error.key] if error.key else []))
            return None
        if self.sparsity is None or self.sparsity.curve.jumps:
            return window
        if window.end == window.begin:
            context.problem(f"the window is empty: it begins and ends at step {window.begin}", "window")
        elif window.count() < 3 and self.sparsity.from_ != self.sparsity.to:
            message = (
                f"the ramp is a cliff: in the {window.end - window.begin} steps of the window there is no update "
                f"between its ends (every {window.every}); update more often, or write `curve: constant`"
            )
            context.problem(message, "window", "every")
        return window

    def _bundles(self, context: PlanContext) -> list[Bundle]:
        """Resolve the targets, and cut them as the pattern wants; report what does not fit."""
        finder = Targets(context.model, context.anatomy, self.pattern.role)
        weights = finder.select(self.targets, self.exclude or (), self.layers)
        for problem in finder.problems:
            written = getattr(self, problem.key) is not None
            path: list[str | int] = [problem.key] if written else []
            if written and problem.index is not None:
                path.append(problem.index)
            context.problem(problem.message, *path)
        unfit: dict[str, list[str]] = {}
        for weight in weights:
            if reason := unsuitable(weight.parameter):
                unfit.setdefault(reason, []).append(weight.name)
        misfits = [Misfit(reason, tuple(names), "targets") for reason, names in unfit.items()]
        bundles: list[Bundle] = []
        if not misfits:
            bundles, misfits = self.pattern.bundles(weights, context.anatomy)
        if self.scope.by_row:
            ragged = tuple(bundle.name for bundle in bundles if bundle.sizes is not None)
            misfits += [Misfit("in a row, all groups must be of one size", ragged, "scope")] if ragged else []
        if self.scope.needs_anatomy() and context.anatomy is None:
            misfits.append(Misfit(f"{self.scope.needs_anatomy()} needs an architecture that is known", key="scope"))
        for misfit in misfits:
            context.problem(f"{_some(misfit.names)}: {misfit.reason}" if misfit.names else misfit.reason, misfit.key)
        self._note_ties(context, weights)
        return bundles

    def _note_ties(self, context: PlanContext, weights: Sequence[Weight]) -> None:
        shared = aliases(context.model)
        for weight in weights:
            others = [name for name in shared.get(id(weight.parameter), ()) if name != weight.name]
            if others:
                context.notes.append(f"{weight.name} is tied to {', '.join(others)}: one tensor, one mask")


def _note_coarseness(context: PlanContext, target: float | None, nonzeros: int | None, elements: int) -> None:
    """Say so where whole groups make a model sparser than was asked for."""
    if target is not None and nonzeros is not None and elements:
        reached = 1 - nonzeros / elements
        if reached > target + COARSE:
            context.notes.append(f"{context.key}: whole groups make {reached:.2%} of the {target:.2%} asked for")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
