"""A `learning_rate` at work: before each step it says what the optimizers shall step with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sparsify.errors import HookError, PlanError
from sparsify.modifiers.contract import Run, Session
from sparsify.modifiers.learning_rate.schedule import Schedule
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.step_rates import StepRates, step_rates
from sparsify.schedules.window import StepWindow
from sparsify.state_reader import StateReader

_ATTACHED = "learning rates"
"""Where the session keeps which optimizers are watched."""


@dataclass(frozen=True, kw_only=True)
class LearningRatePlan(ModifierPlan):
    """A `learning_rate` resolved to steps."""

    schedule: Schedule
    rate: float | None

    def active(self, step: int) -> bool:
        """Whether it sets the learning rate of the step that follows `step` completed ones."""
        return self.window.begin <= step < self.window.end

    def meets(self, window: StepWindow) -> bool:
        """Whether another window has a step of this one."""
        return self.window.begin < window.end and window.begin < self.window.end


class LearningRateRun(Run):
    """Sets the rates of all groups of all optimizers; their ratios stay."""

    plan: LearningRatePlan

    def __init__(self, plan: LearningRatePlan, session: Session) -> None:
        super().__init__(plan)
        self.optimizers = session.optimizers
        self.initial: list[list[float]] = []
        """The learning rate that each group of each optimizer began with; known when the stage has begun."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if group.get("lr") is None:
                    raise PlanError(f"{plan.key}: the {type(optimizer).__name__} has no learning rate to set")
        if wrong := self._without_ratios(_own(self.optimizers[0].param_groups[0])):
            raise PlanError(wrong)
        watched: dict[int, StepRates] = session.shared.setdefault(_ATTACHED, {})
        for optimizer in self.optimizers:
            if id(optimizer) not in watched:
                watched[id(optimizer)] = step_rates(optimizer)
                watched[id(optimizer)].attach(optimizer, session.keep)

    # ------------------------------------------------------------------ the step

    def enter(self, step: int) -> None:
        self._over()
        self.initial = [[_own(group) for group in optimizer.param_groups] for optimizer in self.optimizers]
        if wrong := self._without_ratios(self.initial[0][0]):
            raise HookError(wrong)

    def _without_ratios(self, first: float) -> str | None:
        """Return why the other groups have no ratio to the first, where a `rate` is given."""
        if self.plan.rate is None or first > 0:
            return None
        return (
            f"{self.key}: the first parameter group has a learning rate of {first:g}, so there is no ratio of the "
            "others to it: leave `rate` out, or give that group a positive learning rate"
        )

    def prepare(self, step: int) -> None:
        for index, optimizer in enumerate(self.optimizers):
            if self.plan.active(step):
                factor = self.plan.schedule.at(step)
                values = [base * factor for base in self._bases(index, optimizer)]
                step_rates(optimizer).arm(optimizer, self.plan, factor, values)
            else:
                step_rates(optimizer).release(self.plan)

    def _bases(self, index: int, optimizer: torch.optim.Optimizer) -> list[float]:
        """Return what a multiple of 1 is for each group of an optimizer."""
        own = self.initial[index]
        own += [_own(group) for group in optimizer.param_groups[len(own) :]]  # added since
        scale = 1.0 if self.plan.rate is None else self.plan.rate / self.initial[0][0]
        return [rate * scale for rate in own]

    def commit(self, step: int, skipped: Collection[int]) -> None:
        self._over()

    def rollback(self) -> None:
        self._over()

    def _over(self) -> None:
        """No optimizer steps any more: what was not taken out by then is."""
        for optimizer in self.optimizers:
            step_rates(optimizer).take_out()

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {"initial": {str(index): _numbered(own) for index, own in enumerate(self.initial)}}

    def check_state(self, state: StateReader, step: int) -> None:
        saved = state.exactly(("initial",)).part("initial")
        if step < self.plan.stage.begin:
            saved.exactly(())
            return
        saved.exactly([str(index) for index in range(len(self.optimizers))])
        for index, optimizer in enumerate(self.optimizers):
            own = saved.part(str(index))
            known = [str(group) for group in range(min(len(list(own)), len(optimizer.param_groups)))]
            for group in own.exactly(known):
                if own.number(group) < 0:
                    raise own.fail(group, "a learning rate is not negative")
        if self.plan.rate is not None and not saved.part("0").number("0") > 0:
            raise saved.fail("0", "the first group's learning rate must be positive")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._over()
        saved = state["initial"]
        self.initial = [
            [float(saved[str(index)][str(group)]) for group in range(len(saved[str(index)]))]
            for index in range(len(saved))
        ]


def _numbered(rates: list[float]) -> dict[str, float]:
    return {str(index): rate for index, rate in enumerate(rates)}


def _own(group: Mapping[str, Any]) -> float:
    """Return the learning rate that a group began with."""
    return float(group.get("initial_lr", group["lr"]))
