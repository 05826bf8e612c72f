"""The penalty of a `prune` with gates: λ as the recipe says, or as controllers steer it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsify.criteria.learned import Gated
from sparsify.masking.learned import Scores, mean_square
from sparsify.modifiers.prune.controller import REACTION, STRIDE, Controller
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.rate import Rate
from sparsify.scopes.base import Arena
from sparsify.state_reader import StateReader


class Steering:
    """Pushes scores down, and with a target keeps one controller for each share of the scope."""

    def __init__(self, plan: PrunePlan, criterion: Gated, last_cut: float, rates: Mapping[str, Rate]) -> None:
        self.plan, self.criterion, self.rates = plan, criterion, rates
        competition = plan.competition
        self.bundles = competition.bundles
        self.shares: list[Arena] = [s.members for arena in competition.arenas for s in competition.shares(arena, 0.0)]
        reaction = max((plan.window.end - plan.window.begin) * REACTION, 1.0)
        self.controllers = [Controller(reaction) for _ in self.shares]
        self._role_weights, self._portions = _weighing(plan)
        self._noises: list[float] = []
        """What each controller makes of the gradients of the step that is under way."""
        point = torch.tensor(criterion.pressure_point(last_cut), dtype=torch.float64)
        self._slope = float(criterion.slope(point))
        """The slope of the penalty at the point where a pressure is a gradient."""

    def push(self, step: int, scores: Mapping[str, Scores]) -> None:
        """Add the penalty's gradients to those of the scores."""
        self._noises = []
        for members, controller in zip(self.shares, self.controllers, strict=True):
            own = [scores[self.bundles[index].name] for index in members]
            for each, strength in zip(own, self._strengths(step, members, controller, own), strict=True):
                if strength:
                    each.push(strength)

    def _strengths(self, step: int, members: Arena, controller: Controller, scores: Sequence[Scores]) -> list[float]:
        """Return λ times what it is multiplied with, for each bundle of a share."""
        if self.plan.strength is not None:
            strength = self.plan.strength.at(step)
            return [strength * self._portions[index] for index in members]
        self._noises.append(controller.blended(mean_square(scores)))
        share = self._pull(controller, self._noises[-1], members) / self._slope
        mean = sum(self._role_weights[index] for index in members) / len(members) or 1.0
        return [
            share * each.values.numel() * self._role_weights[index] / mean
            for index, each in zip(members, scores, strict=True)
        ]

    def _pull(self, controller: Controller, noise: float, members: Arena) -> float:
        """Return the gradient that the pressure stands for; plain SGD is told how far, Adam only how hard."""
        if self.criterion.optimizer == "sgd":
            factor = self.rates[self.bundles[members[0]].name].factor
            return controller.pressure * STRIDE / (self.criterion.learning_rate * factor or 1.0)
        return controller.pressure * math.sqrt(noise)

    def commit(self) -> None:
        """The step happened: remember how noisy its gradients were."""
        for controller, noise in zip(self.controllers, self._noises, strict=False):
            controller.noise = noise

    def steer(self, wanted: Sequence[float], found: Sequence[float], steps: int) -> None:
        """Set every controller's pressure from what is wanted and found of its share, `steps` after the last time."""
        for controller, one, other in zip(self.controllers, wanted, found, strict=True):
            controller.steer(one, other, steps)

    def report(self, step: int) -> dict[str, float]:
        """Return λ by the first bundle of every share."""
        names = [self.bundles[members[0]].name for members in self.shares]
        if self.plan.strength is not None:
            return dict.fromkeys(names, self.plan.strength.at(step))
        counts = [sum(self.bundles[index].tiles for index in members) for members in self.shares]
        return {
            name: self._pull(controller, controller.noise, members) * count / self._slope
            for name, controller, members, count in zip(names, self.controllers, self.shares, counts, strict=True)
        }

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of every controller."""
        return [controller.state_dict() for controller in self.controllers]

    def check_state(self, states: Sequence[StateReader]) -> None:
        """Raise StateError for states that are none of controllers."""
        for state in states:
            Controller.check(state)

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up checked states."""
        self.controllers = [Controller(**state) for state in states]
        self._noises = []


def _weighing(plan: PrunePlan) -> tuple[list[float], list[float]]:
    """Return the weight of every bundle's role, and its part of the mean of means (see `Penalty`)."""
    roles = plan.spec.penalty.roles if plan.spec.penalty else {}
    own = [each.role if each.role in roles else "" for each in plan.competition.facts]
    weights = [roles.get(role, 1.0) for role in own]
    return weights, [weight / (len(set(own)) * own.count(role)) for weight, role in zip(weights, own, strict=True)]
