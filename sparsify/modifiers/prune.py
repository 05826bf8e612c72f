"""`prune`: a criterion, a pattern, a scope, a ramp and a window, on some targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import model_validator
from typing_extensions import Self

from sparsify.criteria import Criterion
from sparsify.criteria.magnitude import Magnitude
from sparsify.layers import Weight, aliases, unsuitable
from sparsify.masking import budget, count_zeros, mask_tensors
from sparsify.masking.store import MaskStore
from sparsify.modifiers.base import Modifier, ModifierPlan, PlanContext, Run, Shortfall, TensorPlan
from sparsify.modifiers.clock import ClockError
from sparsify.patterns import Pattern
from sparsify.patterns.unstructured import Unstructured
from sparsify.schedules import EXISTING, Ramp, Window
from sparsify.schedules.window import StepWindow
from sparsify.scopes import Scope
from sparsify.scopes.tensor import TensorScope
from sparsify.spec import fail_at
from sparsify.targets import Selectors, select_weights

TOLERANCE = 1e-9


class Prune(Modifier):
    """Set the least valuable weights to zero, gradually, and keep them there."""

    type: Literal["prune"] = "prune"

    targets: Selectors | None = None
    """Modules, by name (glob, `re:`) or `type:`. May be left out only where the architecture is known."""

    exclude: Selectors | None = None
    """What is not meant, though `targets` match it."""

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
        most = self.pattern.most()
        if self.sparsity is not None and self.sparsity.to > most + TOLERANCE:
            message = f"the pattern allows a sparsity of at most {most:g}, got {self.sparsity.to:g}"
            raise fail_at("Prune", ("sparsity",), message, None)
        return self

    def plan(self, context: PlanContext) -> PrunePlan | None:
        before = len(context.problems)
        if self.criterion.needs:
            needs = ", ".join(sorted(self.criterion.needs))
            context.problem(
                f"the criterion {self.criterion.type!r} needs {needs}, which `prune` cannot give yet", "criterion"
            )
        window = self._window(context)
        weights = self._weights(context)
        if window is None or len(context.problems) > before:
            return None
        tensors, nonzeros = _expect(self, weights)
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
            weights=tuple(weights),
            spec=self,
        )

    def _window(self, context: PlanContext) -> StepWindow | None:
        """Resolve the window; a curve that jumps, or a lock, has one update, at its beginning."""
        jumps = self.sparsity is None or self.sparsity.curve.jumps
        written = self.window
        if jumps and written.end is None:
            written = written.model_copy(update={"end": written.begin})
        try:
            window = context.span.window(written)
        except ClockError as error:
            context.problem(str(error), "window", *([error.key] if error.key else []))
            return None
        if jumps:
            return StepWindow(window.begin, window.begin, window.every)
        assert self.sparsity is not None
        if window.end == window.begin:
            context.problem(f"the window is empty: it begins and ends at step {window.begin}", "window")
        elif window.count() < 3 and self.sparsity.from_ != self.sparsity.to:
            message = (
                f"the ramp is a cliff: in the {window.end - window.begin} steps of the window there is no update "
                f"between its ends (every {window.every}); update more often, or write `curve: constant`"
            )
            context.problem(message, "window", "every")
        return window

    def _weights(self, context: PlanContext) -> list[Weight]:
        if self.targets is None:
            names = sorted({w.name.rpartition(".")[0] for w in select_weights(context.model, ["*"], [])[0]})
            shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
            context.problem(f"`targets` is needed for {type(context.model).__name__}; it has: {shown}")
            return []
        weights, problems = select_weights(context.model, self.targets, self.exclude or ())
        for key, index, message in problems:
            context.problem(message, key, index)
        shared = aliases(context.model)
        misfits: dict[str, list[str]] = {}
        for weight in weights:
            reason = unsuitable(weight.parameter) or self._misfit(weight)
            if reason:
                misfits.setdefault(reason, []).append(weight.name)
            others = [name for name in shared.get(id(weight.parameter), ()) if name != weight.name]
            if others:
                context.notes.append(f"{weight.name} is tied to {', '.join(others)}: one tensor, one mask")
        for reason, names in misfits.items():
            context.problem(f"{_some(names)}: {reason}", "pattern" if "divide" in reason else "targets")
        return weights

    def _misfit(self, weight: Weight) -> str | None:
        if weight.layout == "conv" and not isinstance(self.pattern, Unstructured):
            return f"the pattern {self.pattern.type!r} does not apply to convolutions yet"
        return self.pattern.problem(weight.rows, weight.columns)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _whole(elements: int, size: int) -> int:
    """Return the elements of the fewest whole groups that reach `elements`."""
    return -(-elements // size) * size


def _expect(spec: Prune, weights: Sequence[Weight]) -> tuple[tuple[TensorPlan, ...], int | None]:
    """Return what is known beforehand about each tensor, and the non-zero weights of all together."""
    target = spec.sparsity.to if spec.sparsity else None
    kept, total = _kept(spec, weights, target) if target is not None else ({}, None)
    tensors = tuple(
        TensorPlan(
            name=weight.name,
            shape=tuple(weight.parameter.shape),
            dtype=str(weight.parameter.dtype).removeprefix("torch."),
            elements=weight.parameter.numel(),
            target=target,
            nonzeros=kept.get(index),
        )
        for index, weight in enumerate(weights)
    )
    return tensors, total


def _kept(spec: Prune, weights: Sequence[Weight], target: float) -> tuple[dict[int, int], int | None]:
    """Return the weights kept of each tensor that does not compete, by index, and of all together.

    Where tensors with groups of different sizes compete, how far the last group overshoots is unknown.
    """
    kept: dict[int, int] = {}
    total: int | None = 0
    for arena in spec.scope.arenas(len(weights)):
        members = [weights[index] for index in arena]
        elements = sum(weight.parameter.numel() for weight in members)
        sizes = {spec.pattern.size(weight.rows, weight.columns) for weight in members}
        if len(sizes) > 1:
            total = None
            continue
        left = elements - min(_whole(budget(target, elements), sizes.pop()), elements)
        total = None if total is None else total + left
        if len(arena) == 1:
            kept[arena[0]] = left
    return kept, total


@dataclass(frozen=True, kw_only=True)
class PrunePlan(ModifierPlan):
    """A `prune` resolved to steps and tensors."""

    spec: Prune

    def start(self, masks: MaskStore) -> PruneRun:
        return PruneRun(self, masks)

    def clash(self, later: ModifierPlan) -> str | None:
        if not isinstance(later, PrunePlan) or self.spec.sparsity is None or later.spec.sparsity is None:
            return None
        start = later.spec.sparsity.at(0.0) if later.spec.sparsity.from_ != EXISTING else 1.0
        reached = self.spec.sparsity.to
        if start >= reached:
            return None
        return (
            f"sparsity would fall from {reached:g} to {start:g} at step {later.window.begin}; "
            f"write `from: {reached:g}` or `from: existing`"
        )


class PruneRun(Run):
    """A `prune` at work: makes masks when they are due, and puts them into the store."""

    def __init__(self, plan: PrunePlan, masks: MaskStore) -> None:
        super().__init__(plan)
        self.plan = plan
        self.spec = plan.spec
        self.masks = masks
        self.weights = {weight.name: weight for weight in plan.weights}
        self.existing: dict[str, int] = {}
        """Zeros found in each tensor when the window opened, where the recipe asks for them."""
        self.done = -1
        """The step of the last update made."""

    def update(self, step: int) -> bool:
        if not self.plan.window.due(step) or step <= self.done:
            return False
        self._make(step)
        self.done = step
        return True

    def last_update(self) -> int:
        return self.plan.window.end

    def sparsity(self, step: int) -> float | None:
        if step < self.plan.window.begin or self.spec.sparsity is None:
            return None
        return self._wanted(list(self.weights), step)

    def _make(self, step: int) -> None:
        with torch.no_grad():
            if self.spec.criterion.keeps_zeros:
                for weight in self.weights.values():
                    self.masks.set(weight, weight.parameter.detach() != 0)
                    self.existing[weight.name] = count_zeros(weight.parameter)
                return
            if self.spec.sparsity and self.spec.sparsity.from_ == EXISTING and not self.existing:
                self.existing = {name: count_zeros(w.parameter) for name, w in self.weights.items()}
            matrices = {name: w.matrix(w.parameter.detach()) for name, w in self.weights.items()}
            made = mask_tensors(
                matrices,
                self.spec.criterion,
                self.spec.pattern,
                self.spec.scope,
                lambda names: self._wanted(names, step),
            )
            for name, mask in made.items():
                self.masks.set(self.weights[name], self.weights[name].unmatrix(mask))

    def _wanted(self, names: Sequence[str], step: int) -> float:
        """Return the sparsity that these tensors together should have."""
        assert self.spec.sparsity is not None
        elements = sum(self.weights[name].parameter.numel() for name in names)
        zeros = sum(self.existing.get(name, 0) for name in names)
        return self.spec.sparsity.at(self.plan.window.progress(step), zeros / max(elements, 1))

    def verify(self, step: int) -> list[Shortfall]:
        if self.done < 0:
            return []
        names = list(self.weights)
        short = []
        for arena in self.spec.scope.arenas(len(names)):
            members = [names[index] for index in arena]
            elements = sum(self.weights[name].parameter.numel() for name in members)
            if self.spec.criterion.keeps_zeros:
                wanted = sum(self.existing[name] for name in members)
            else:
                wanted = budget(self._wanted(members, self.plan.window.end), elements)
            found = sum(count_zeros(self.weights[name].parameter) for name in members)
            if found < wanted:
                label = members[0] if len(members) == 1 else f"{len(members)} tensors together"
                short.append(Shortfall(label, wanted, found, elements, self.key))
        return short

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "existing": dict(self.existing)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])
        self.existing = {str(name): int(zeros) for name, zeros in state["existing"].items()}
