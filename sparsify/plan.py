"""The plan: recipe × model × number of steps, known before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from torch import nn

from sparsify.anatomy import read
from sparsify.errors import PlanError, Problem
from sparsify.layers import Weight, shared_rows, unwrap
from sparsify.modifiers.base import ModifierPlan, PlanContext, TensorPlan
from sparsify.modifiers.clock import ClockError, Span
from sparsify.recipe import Recipe, Stage
from sparsify.recipe.problems import in_order

FORMAT = 1


@dataclass(frozen=True)
class StagePlan:
    """A stage in steps of the whole run; `end` is None where the total is not known."""

    name: str
    begin: int
    end: int | None


@dataclass(frozen=True)
class Plan:
    """What will happen: print it, compare it, keep it as JSON."""

    recipe: Recipe
    model: str
    parameters: int
    total_steps: int | None
    steps_per_epoch: int | None
    stages: tuple[StagePlan, ...]
    modifiers: tuple[ModifierPlan, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        model: nn.Module,
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
    ) -> Plan:
        """Resolve a recipe against a model (weights are not read; the meta device will do) and a clock.

        `total_steps` and `steps_per_epoch` count optimizer steps; `epochs` × `steps_per_epoch` stands for
        `total_steps`. Raises PlanError with every reason why the recipe does not fit.
        """
        model = unwrap(model)
        recipe = recipe.resolve()
        total = _total(total_steps, steps_per_epoch, epochs)
        planner = _Planner(recipe, model, total, steps_per_epoch)
        planner.run()
        if planner.problems:
            raise PlanError(in_order(planner.problems))
        return cls(
            recipe=recipe,
            model=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            total_steps=total,
            steps_per_epoch=steps_per_epoch,
            stages=tuple(planner.stages),
            modifiers=tuple(planner.plans),
            notes=tuple(dict.fromkeys(planner.notes)),
        )

    def stage_at(self, step: int) -> str:
        """Return the name of the stage in which `step` completed steps lie."""
        for stage in self.stages:
            if stage.end is None or step < stage.end:
                return stage.name
        return self.stages[-1].name

    def targeted(self) -> list[Weight]:
        """Return the weights that the modifiers mask, each once."""
        return list({weight.name: weight for modifier in self.modifiers for weight in modifier.weights}.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "format": FORMAT,
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.sha256},
            "model": {"type": self.model, "parameters": self.parameters},
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "stages": [{"name": s.name, "begin": s.begin, "end": s.end} for s in self.stages],
            "modifiers": [modifier.to_json() for modifier in self.modifiers],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return the plan as JSON text, stable and diffable."""
        return json.dumps(self.to_dict(), indent=2)

    def headline(self) -> str:
        """Return one line about the whole."""
        steps = f"{self.total_steps} steps" if self.total_steps is not None else "any number of steps"
        name = self.recipe.name or "recipe"
        return f"{name} ({self.recipe.sha256[:12]}) on {self.model}, {self.parameters:,} parameters, {steps}"

    def rows(self, modifier: ModifierPlan) -> list[tuple[str, ...]]:
        """Return (tensor or block, shape or groups, target, expected non-zeros) as text, the sum last."""
        named = partial(_target, unknown=modifier.unknown())
        bundles = [list(tensors) for _, tensors in groupby(modifier.tensors, lambda tensor: tensor.bundle)]
        otherwise = "competes" if modifier.nonzeros is not None else "unknown"
        rows = [_row(tensors, otherwise, named) for tensors in bundles]
        elements = sum(tensor.elements for tensor in modifier.tensors)
        targets = {tensor.target for tensor in modifier.tensors}
        if len(targets) == 1:
            target = named(targets.pop())
        else:
            target = "" if modifier.nonzeros is None else _target(1 - modifier.nonzeros / max(elements, 1))
        total = _count(modifier.nonzeros, "unknown without weights")
        what = f"{len(rows)} " + ("tensor" if len(rows) == len(modifier.tensors) else "block") + "s" * (len(rows) != 1)
        return [*rows, (what, f"{elements:,} weights", target, total)]

    def title(self, modifier: ModifierPlan) -> str:
        """Return one line about a modifier."""
        window = modifier.window
        facts = ", ".join(f"{key} {value}" for key, value in modifier.facts.items())
        when = f"step {window.begin}"
        if window.end > window.begin:
            when = f"steps {window.begin} to {window.end}, every {window.every} ({window.count()} updates)"
        return f"{modifier.key}: {facts}; {when}"

    def __str__(self) -> str:
        lines = [self.headline()]
        for modifier in self.modifiers:
            rows = self.rows(modifier)
            widths = [max(len(row[column]) for row in rows) for column in range(4)]
            lines.append(self.title(modifier))
            lines += [
                "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
            ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """Yield tables for rich (`rich.print(plan)`)."""
        from rich.markup import escape
        from rich.table import Table

        yield f"[bold]{escape(self.headline())}[/bold]"
        for modifier in self.modifiers:
            table = Table(title=escape(self.title(modifier)), title_justify="left", title_style="cyan")
            table.add_column("tensor or block", overflow="fold")
            for column in ("shape or groups", "target", "expected non-zeros"):
                table.add_column(column, justify="right")
            *rows, total = self.rows(modifier)
            for row in rows:
                table.add_row(*map(escape, row))
            table.add_section()
            table.add_row(*map(escape, total))
            yield table
        for note in self.notes:
            yield f"[yellow]note:[/yellow] {escape(note)}"


def _row(tensors: Sequence[TensorPlan], otherwise: str, named: Callable[[float | None], str]) -> tuple[str, ...]:
    """Return the row of a tensor, or of several that are pruned together."""
    first = tensors[0]
    known = [tensor.nonzeros for tensor in tensors if tensor.nonzeros is not None]
    target = named(first.target) if known else ""
    shape = "×".join(map(str, first.shape)) if len(tensors) == 1 else f"{first.groups} in {len(tensors)} tensors"
    return first.bundle, shape, target, _count(sum(known) if known else None, otherwise)


def _target(target: float | None, unknown: str = "") -> str:
    return unknown if target is None else f"{target:.2%}"


def _count(number: int | None, otherwise: str) -> str:
    return otherwise if number is None else f"{number:,}"


def _total(total_steps: int | None, steps_per_epoch: int | None, epochs: int | None) -> int | None:
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
        raise PlanError("epochs needs steps_per_epoch (optimizer steps, not batches)")
    if total_steps is not None and total_steps != epochs * steps_per_epoch:
        raise PlanError(
            f"total_steps is {total_steps}, but {epochs} epochs of {steps_per_epoch} steps are "
            f"{epochs * steps_per_epoch}; give one or the other"
        )
    return epochs * steps_per_epoch


class _Planner:
    """Walks the stages, collecting plans, notes and every problem."""

    def __init__(self, recipe: Recipe, model: nn.Module, total: int | None, per_epoch: int | None) -> None:
        self.recipe, self.model, self.total, self.per_epoch = recipe, model, total, per_epoch
        self.anatomy = read(model)
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.stages: list[StagePlan] = []
        self.plans: list[ModifierPlan] = []
        self.places: dict[str, tuple[str | int, ...]] = {}

    def run(self) -> None:
        spans = self._spans()
        for number, (stage, span) in enumerate(zip(self.recipe.staged(), spans, strict=False)):
            end = None if span.length is None else span.begin + span.length
            self.stages.append(StagePlan(stage.name, span.begin, end))
            for index, (modifier, name) in enumerate(zip(stage.modifiers, stage.names(), strict=True)):
                context = PlanContext(self.model, span, f"{stage.name}/{name}", self.anatomy, tuple(self.plans))
                path = ("stages", number, "modifiers", index)
                self.places[context.key] = path
                plan = modifier.plan(context)
                self.notes += context.notes
                for below, message in context.problems:
                    self._problem(message, *path, *below)
                if plan is not None:
                    self._clashes(plan)
                    self.plans.append(plan)

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
        """Refuse two modifiers whose windows overlap on a tensor, and sparsity that falls."""
        for other in self.plans:
            theirs = {id(weight.parameter) for weight in other.weights}
            both = [weight for weight in plan.weights if id(weight.parameter) in theirs]
            shared = [weight.name for weight in both if shared_rows(weight, other.weights)]
            if not shared:
                continue
            first, second = sorted((other, plan), key=lambda entry: entry.window.begin)
            names = shared[0] + (f" and {len(shared) - 1} more" if len(shared) > 1 else "")
            if second.window.begin < first.window.end or first.window.begin == second.window.begin:
                message = f"{other.key} acts on {names} at the same time"
            elif why := first.clash(second):
                message = f"after {first.key}, on {names}: {why}"
            else:
                continue
            self._problem(message, *self.places[plan.key])
