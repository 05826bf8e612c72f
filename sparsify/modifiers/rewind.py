"""`rewind`: weights go back to what they were early in the training, under the masks of now: lottery tickets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsify.durations import Duration, PositiveDuration
from sparsify.layers import Weight, merged
from sparsify.masking.packing import pack, unpack
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Modifier, Run, Session
from sparsify.modifiers.parameters import Parameters
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.span import ClockError, Span
from sparsify.modifiers.track import Track
from sparsify.schedules.window import StepWindow
from sparsify.selectors import Selectors
from sparsify.spec import gist
from sparsify.state_reader import StateReader

ENDLESS = 2**53
"""Steps of a training whose length is not known."""


class Rewind(Modifier):
    """Puts weights back to their values of an early step at the end of every round; masks stay, moments are reset.

    Write it after the `prune` that makes the masks, with the same `every`: train, prune, rewind, and again. Sources:
    Frankle & Carbin, "The Lottery Ticket Hypothesis" (2019); Frankle et al., "Linear Mode Connectivity and the Lottery
    Ticket Hypothesis" (2020), for `to` above 0.
    """

    type: Literal["rewind"] = "rewind"

    targets: Selectors | None = None
    """Modules, by role or name, with all their parameters. Left out: everything but the task head."""

    exclude: Selectors | None = None
    """What is left out although `targets` match it."""

    to: Duration = Field(default=Duration(0), json_schema_extra={"default": "0 steps"})
    """The step whose weights are put back, counted from the beginning of the stage."""

    every: PositiveDuration
    """The length of a round. At its end weights go back, unless the stage ends there."""

    end: PositiveDuration | None = None
    """After this no weights go back; by default until the stage ends."""

    examples = ({"every": 3},)

    def explain(self) -> list[str]:
        what = "everything but the task head" if self.targets is None else " and ".join(self.targets)
        return [
            f"Rewinds {what} ({gist(self)})",
            f"When: every {self.every} of the stage, to what the weights were after {self.to}.",
        ]

    def durations(self) -> list[Duration]:
        return [self.to, self.every, *([self.end] if self.end is not None else [])]

    def window(self, span: Span) -> StepWindow:
        """Return when it rewinds. Raises ClockError where a round does not fit."""
        to, every = span.steps(self.to, "to"), span.steps(self.every, "every")
        if every == 0:
            raise ClockError(f"'{self.every}' of the stage rounds to no step at all", "every")
        if to >= every:
            raise ClockError(f"the step to go back to, {to}, lies after the end of the first round, {every}", "to")
        last = (span.length if span.length is not None else ENDLESS) - 1
        if self.end is not None:
            last = min(last, span.steps(self.end, "end"))
        if last < every:
            raise ClockError(
                f"one round takes {every} steps, and the last rewind comes before: nothing is rewound", "every"
            )
        return StepWindow(span.begin + every, span.begin + last // every * every, every)

    def track(self, span: Span, most: int) -> Track | None:
        return Track(self.window(span), words="rewinds", lasts=False)

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        tickets = found.get("tickets")
        return [
            f"ticket of step {each['step']:,}: {each['density']:.2%} left"
            + (
                f", Jaccard overlap with the one before {each['overlap']:.3f}"
                if each.get("overlap") is not None
                else ""
            )
            for each in (tickets if isinstance(tickets, list) else ())
            if isinstance(each, Mapping) and {"step", "density"} <= set(each)
        ]

    def plan(self, context: PlanContext) -> RewindPlan | None:
        parameters = _parameters(self, context)
        try:
            window = self.window(context.span)
        except ClockError as error:
            context.problem(str(error), *([error.key] if error.key else []))
            return None
        if context.problems:
            return None
        start = context.span.begin + context.span.steps(self.to)
        weights = merged(weight for plan in context.earlier for weight in plan.weights)
        return RewindPlan(
            key=context.key,
            type=self.type,
            window=window,
            stage=context.span,
            tensors=(),
            nonzeros=None,
            facts={
                "parameters": f"{sum(parameter.numel() for parameter in parameters.values()):,}",
                "rewound to": f"step {start}",
                "every": f"{window.every} steps",
            },
            unknown="prunes nothing",
            rewinds=(start, window.end),
            start=start,
            parameters=parameters,
            tickets=tuple(weights),
        )

    def make_run(self, plan: Any, session: Session) -> RewindRun:
        return RewindRun(plan, session)


def _parameters(spec: Rewind, context: PlanContext) -> dict[str, nn.Parameter]:
    """Return what is rewound, whole parameters by name; report what does not fit."""
    finder = Parameters(context.model, context.anatomy)
    head = context.anatomy is not None and context.layered and bool(context.anatomy.task_head)
    exclude = spec.exclude or ()
    if spec.targets is None and head:
        exclude = (*exclude, "task_head")
    elif spec.targets is None and not context.layered and spec.exclude is None:
        context.notes.append(
            f"{context.key}: nothing repeats in {type(context.model).__name__}, so its task head is rewound "
            "too: name it in `exclude` if it should not be"
        )
    weights = finder.select(spec.targets or ("*",), exclude)
    for problem in finder.problems:
        path = (problem.key, problem.index) if problem.index is not None else (problem.key,)
        context.problem(problem.message, *(path if getattr(spec, problem.key) is not None else ()))
    return {weight.parameter_name: weight.parameter for weight in weights}


@dataclass(frozen=True, kw_only=True)
class RewindPlan(ModifierPlan):
    """A `rewind` in steps. It has no `weights`: it masks nothing."""

    start: int
    """The completed step whose weights are remembered."""

    parameters: Mapping[str, nn.Parameter]
    tickets: tuple[Weight, ...]
    """The weights that modifiers before it mask, whose masks are kept at every round."""

    def due(self, step: int) -> bool:
        """Whether weights go back when `step` steps are completed."""
        return self.window.begin <= step <= self.window.end and (step - self.window.begin) % self.window.every == 0


class RewindRun(Run):
    """Remembers weights once, and puts them back at the end of every round."""

    plan: RewindPlan

    def __init__(self, plan: RewindPlan, session: Session) -> None:
        super().__init__(plan)
        self.masks, self.optimizers = session.masks, session.optimizers
        self.remembered: dict[str, Tensor] = {}
        self.tickets: dict[int, dict[str, Tensor]] = {}
        """By step: packed masks of what was pruned then, by weight."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        if step == self.plan.start and not self.remembered:
            self.remembered = {name: self.masks.dense(parameter) for name, parameter in self.plan.parameters.items()}
        if not self.plan.due(step) or step in self.tickets:
            return
        found = {weight.name: mask for weight in self.plan.tickets if (mask := self.masks.of(weight)) is not None}
        for name, parameter in self.plan.parameters.items():
            self.masks.put(parameter, self.remembered[name])
            for optimizer in self.optimizers:
                optimizer.state.pop(parameter, None)
        self.tickets[step] = {name: pack(mask.cpu()) for name, mask in found.items()}

    def report(self) -> dict[str, Any]:
        """Return the tickets: step, density and overlap with the one before."""
        if not self.tickets:
            return {}
        tickets: list[dict[str, Any]] = []
        before: Tensor | None = None
        for step, masks in sorted(self.tickets.items()):
            parts = [self._mask(masks, weight).flatten() for weight in self.plan.tickets]
            kept = torch.cat(parts) if parts else torch.ones(0, dtype=torch.bool)
            both = None if before is None else float((kept & before).sum()) / max(float((kept | before).sum()), 1.0)
            tickets.append(
                {"step": step, "density": float(kept.double().mean()) if kept.numel() else 1.0, "overlap": both}
            )
            before = kept
        return {"tickets": tickets}

    def _mask(self, masks: Mapping[str, Tensor], weight: Weight) -> Tensor:
        packed = masks.get(weight.name)
        return torch.ones(weight.shape, dtype=torch.bool) if packed is None else unpack(packed, weight.shape)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {
            "remembered": dict(self.remembered),
            "tickets": {str(step): dict(m) for step, m in self.tickets.items()},
        }

    def check_state(self, state: StateReader, step: int) -> None:
        state.exactly(("remembered", "tickets"))
        remembered, tickets = state.part("remembered"), state.part("tickets")
        remembered.exactly(list(self.plan.parameters) if step >= self.plan.start else [])
        for name in remembered:
            remembered.tensor(name, tuple(self.plan.parameters[name].shape), self.plan.parameters[name].dtype)
        window = self.plan.window
        count = max((min(step, window.end) - window.begin) // window.every + 1, 0)
        if len(list(tickets)) != count or not all(
            f"{window.begin + n * window.every}" in tickets for n in range(count)
        ):
            raise state.fail("tickets", f"expected those of {count} rounds")
        shapes = {weight.name: weight.geometry.elements for weight in self.plan.tickets}
        for number in tickets:
            masks = tickets.part(number).within(shapes)
            for name in masks:
                masks.tensor(name, (-(-shapes[name] // 8),), torch.uint8)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.remembered = {
            name: tensor.to(self.plan.parameters[name].device, copy=True)
            for name, tensor in state["remembered"].items()
        }
        self.tickets = {
            int(step): {n: m.cpu().clone() for n, m in masks.items()} for step, masks in state["tickets"].items()
        }
