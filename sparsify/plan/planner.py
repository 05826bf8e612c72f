"""From a recipe, a model and a number of steps to plans of its modifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsify.anatomy import absent, read
from sparsify.errors import PlanError, Problem
from sparsify.layers import Rows, merged
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.span import ClockError, Span
from sparsify.plan import adapted, afterwards
from sparsify.recipe import Recipe, Stage
from sparsify.recipe.problems import in_order
from sparsify.structure.change import Change


@dataclass(frozen=True)
class StagePlan:
    """A stage in steps of the whole run; `end` is None where the total is not known."""

    name: str
    begin: int
    end: int | None


def total_of(total_steps: int | None, steps_per_epoch: int | None, epochs: int | None) -> int | None:
    """Return the number of optimizer steps; None where it is not known. Raises PlanError for what cannot be."""
    for name, value in (
        ("total_steps", total_steps),
        ("steps_per_epoch", steps_per_epoch),
        ("epochs", epochs),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise PlanError(f"{name} must be a whole number of at least 1, got {value!r}")
    if epochs is None:
        return total_steps
    if steps_per_epoch is None:
        raise PlanError("steps_per_epoch is needed with epochs (optimizer steps, not batches)")
    if total_steps is not None and total_steps != epochs * steps_per_epoch:
        raise PlanError(
            f"total_steps is {total_steps}, but {epochs} epochs of {steps_per_epoch} steps are "
            f"{epochs * steps_per_epoch}; give one or the other"
        )
    return epochs * steps_per_epoch


class Planner:
    """Walks the stages, collecting plans, notes and every problem."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        total: int | None,
        per_epoch: int | None,
        changes: Mapping[str, Change],
        example_inputs: Any = None,
    ) -> None:
        self.recipe, self.model, self.total, self.per_epoch, self.changes = recipe, model, total, per_epoch, changes
        self.example_inputs = example_inputs
        self.anatomy = read(model)
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.stages: list[StagePlan] = []
        self.plans: list[ModifierPlan] = []
        self.places: dict[str, tuple[str | int, ...]] = {}

    def run(self) -> None:
        """Plan everything. Raises PlanError with every reason why the recipe does not fit."""
        spans = self._spans()
        for number, (stage, span) in enumerate(zip(self.recipe.staged(), spans, strict=False)):
            end = None if span.length is None else span.begin + span.length
            self.stages.append(StagePlan(stage.name, span.begin, end))
            for index, (key, modifier) in enumerate(stage.keyed()):
                context = PlanContext(
                    self.model, span, key, self.anatomy, tuple(self.plans), self.changes, self.example_inputs
                )
                path = ("stages", number, "modifiers", index)
                self.places[context.key] = path
                plan = modifier.plan(context)
                self.notes += context.notes
                for below, message in context.problems:
                    self._problem(message, *path, *below)
                if plan is not None:
                    self._clashes(plan)
                    self._scales(plan)
                    self.plans.append(plan)
        if self.problems:
            raise PlanError(in_order(self.problems))
        self.notes += absent(self.model)
        self.notes += adapted.notes(self.model, self.plans, self.changes)
        self.notes += afterwards.notes(self.recipe, self.model, self.anatomy, self.plans)

    def _problem(self, message: str, *path: str | int) -> None:
        self.problems.append(self.recipe.problem(message, *path))

    def _spans(self) -> list[Span]:
        """Lay the stages end to end; what one leaves open is the rest."""
        stages = self.recipe.staged()
        whole = Span(0, self.total, self.per_epoch)
        lengths: list[int | None] = []
        for number, stage in enumerate(stages):
            try:
                lengths.append(whole.steps(stage.length) if stage.length else None)
            except ClockError as error:
                self._problem(str(error), "stages", number, "length")
                return []
        used = sum(length or 0 for length in lengths)
        if not self._lengths_fit(stages, lengths, used):
            return []
        spans, begin = [], 0
        for length in lengths:
            if length is None and self.total is not None:
                length = self.total - used
            spans.append(Span(begin, length, self.per_epoch))
            begin += length or 0
        return spans

    def _lengths_fit(self, stages: tuple[Stage, ...], lengths: list[int | None], used: int) -> bool:
        before = len(self.problems)
        for number, length in enumerate(lengths):
            if length == 0:
                self._problem(f"'{stages[number].length}' rounds to no step", "stages", number, "length")
            if length is None and self.total is None and number < len(lengths) - 1:
                self._problem("a stage that takes the rest needs total_steps", "stages", number)
        if self.total is not None:
            rest = self.total - used
            if None in lengths and rest < 1:
                self._problem(
                    f"nothing of the {self.total} steps is left for this stage", "stages", lengths.index(None)
                )
            elif None not in lengths and rest != 0:
                message = f"the stages take {used} steps of {self.total}; leave out the length of one"
                self._problem(message, "stages", len(lengths) - 1, "length")
        return len(self.problems) == before

    def _clashes(self, plan: ModifierPlan) -> None:
        """Refuse two modifiers that own the same weights at the same time, and sparsity that falls."""
        for other in self.plans:
            owned = Rows(merged(other.masked))
            shared = [weight.name for weight in plan.masked if owned.shared(weight)]
            if not shared:
                continue
            names = shared[0] + (f" and {len(shared) - 1} more" if len(shared) > 1 else "")
            first, second = (other, plan) if plan.held[0] >= other.held[1] else (plan, other)
            if first is plan and other.held[0] <= plan.held[1]:  # at one step, what stands first in the file acts first
                message = f"{other.key} acts on {names} at the same time{_why(other, plan)}"
            elif why := _falls(first, second):
                message = f"after {first.key}, on {names}: {why}"
            else:
                continue
            self._problem(message, *self.places[plan.key])

    def _scales(self, plan: ModifierPlan) -> None:
        """Refuse weights of one scale that come back after another modifier has given them another.

        At one step, what stands first in the file acts first: what is remembered then has the old scale, and what is
        put back then is rescaled after it.
        """
        for other in self.plans:
            for back, scaler in ((other, plan), (plan, other)):
                if back.rewinds is None or scaler.rescales is None:
                    continue
                (start, last), at = back.rewinds, scaler.rescales
                if (start <= at < last) if back is other else (start < at <= last):
                    message = (
                        f"{scaler.key} puts norms into their weights at step {at}, and {back.key} goes on until step "
                        f"{last}: weights of step {start} would no longer fit; end one of the two earlier"
                    )
                    self._problem(message, *self.places[plan.key])


def _why(*plans: ModifierPlan) -> str:
    """Say so where latent weights are what stands in the way: they are held before the window opens."""
    early = [plan for plan in plans if plan.latent and plan.held[0] < plan.window.begin]
    return "".join(
        f"; {plan.key} keeps latent weights from step {plan.held[0]}, the beginning of its stage" for plan in early
    )


def _falls(first: ModifierPlan, second: ModifierPlan) -> str | None:
    """Return how sparsity would fall from the first to the second, or None."""
    if first.reaches is None or second.starts is None or second.starts >= first.reaches:
        return None
    return (
        f"sparsity would fall from {first.reaches:g} to {second.starts:g} at step {second.window.begin}; "
        f"write `from: {first.reaches:g}` or `from: existing`"
    )
