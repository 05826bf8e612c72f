"""A `prune` with gates at work: a threshold on learned scores, and a penalty that pushes them down."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from sparsify.criteria.learned import Gated
from sparsify.masking.competition import Share
from sparsify.masking.earlier import without_revived
from sparsify.masking.groups import expand
from sparsify.masking.learned import mean_square
from sparsify.modifiers.contract import Session
from sparsify.modifiers.prune.controller import REACTION, STRIDE, Controller
from sparsify.modifiers.prune.learned import LearnedRun
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.schedules import Threshold
from sparsify.scopes.base import Arena
from sparsify.state_reader import StateReader

NEAR = 0.01
"""How near to the sparsity asked for a threshold must land."""


class GatedRun(LearnedRun):
    """Keeps what lies above a threshold; with a target, one controller for each share of the scope steers λ."""

    def __init__(self, plan: PrunePlan, session: Session) -> None:
        super().__init__(plan, session)
        assert isinstance(self.criterion, Gated)
        self.gated: Gated = self.criterion
        final = self.gated.threshold
        self.threshold = plan.spec.threshold or (None if final is None else Threshold(to=final))
        competition = plan.competition
        self.shares: list[Arena] = [s.members for arena in competition.arenas for s in competition.shares(arena, 0.0)]
        reaction = max((plan.window.end - plan.window.begin) * REACTION, 1.0)
        self.controllers = [Controller(reaction) for _ in self.shares]
        self.role_weights, self.portions = _weighing(plan)
        self.forced: dict[str, Tensor] = {}
        """Tiles that are kept though their gates are closed, by bundle."""
        self.slopes: dict[str, Tensor] = {}
        self.noises: list[tuple[Controller, float]] = []
        """What controllers make of the gradients of the step that is under way."""
        self.gating = False
        """Whether gates act between steps: `apply` leaves the weights as it finds them."""
        self.found: dict[str, Any] = {}
        self.failure: Exception | None = None
        """What the user's evaluation raised, until the update is made."""

    # ------------------------------------------------------------------ gates that are sampled

    def samples(self, step: int) -> bool:
        return self.alive and self.gated.stochastic

    @torch.no_grad()
    def on_step_begin(self, step: int, batch: Any) -> None:
        """Sample the gates of a step, from seed, step and name alone, so that every process has the same."""
        if not self.samples(step):
            return
        for bundle in self.competition.bundles:
            scores = self.scores[bundle.name].tiles
            generator = torch.Generator(scores.device)
            generator.manual_seed(crc32(f"{self.gated.seed}/{step}/{bundle.name}".encode()))
            noise = torch.rand(scores.shape, generator=generator, device=scores.device, dtype=scores.dtype)
            self._gate(bundle.name, *self.gated.sample(scores, noise), sampled=True)

    @torch.no_grad()
    def _set_gates(self) -> None:
        """Put the gates of an evaluation in place, where gates are not simply open or closed; none before they act."""
        for name, scores in self.scores.items() if self.gated.stochastic else ():
            if self.gating:
                self._gate(name, *self.gated.gates(scores.tiles), sampled=False)
            else:
                self._no_gate(name)

    def _gate(self, name: str, gates: Tensor, slopes: Tensor, *, sampled: bool) -> None:
        """Put the gates of a bundle in place; what is kept against its score is wholly open."""
        forced = self.forced.get(name)
        if forced is not None:
            gates, slopes = gates.masked_fill(forced, 1.0), slopes.masked_fill(forced, 0.0)
        self.slopes[name] = slopes
        for part in self.scores[name].bundle.parts:
            self.masks.latent(part.weight).set_gate(part, gates, sampled=sampled)

    def _no_gate(self, name: str) -> None:
        for part in self.scores[name].bundle.parts:
            self.masks.latent(part.weight).set_gate(None, None, sampled=False)

    def _slopes(self, bundle: str) -> Tensor | None:
        return self.slopes.get(bundle)

    def commit(self, step: int, skipped: Collection[int]) -> None:
        for controller, noise in self.noises if not skipped else ():
            controller.noise = noise
        super().commit(step, skipped)

    def rollback(self) -> None:
        super().rollback()
        self._set_gates()

    # ------------------------------------------------------------------ the penalty

    def penalise(self, step: int) -> None:
        self.noises = []
        if self.alive:
            for members, controller in zip(self.shares, self.controllers, strict=True):
                self._push(step, members, controller)
        super().penalise(step)

    def _push(self, step: int, members: Arena, controller: Controller) -> None:
        """Add the penalty's gradients in a share: λ as the recipe says, or as its controller does."""
        scores = [self.scores[self.competition.bundles[index].name] for index in members]
        if self.plan.strength is not None:
            strength = self.plan.strength.at(step)
            strengths = [strength * self.portions[index] for index in members]
        else:
            self.noises.append((controller, controller.blended(mean_square(scores))))
            share = self._pull(controller, self.noises[-1][1], members) / self._steepness()
            mean = sum(self.role_weights[index] for index in members) / len(members) or 1.0
            strengths = [
                share * each.values.numel() * self.role_weights[index] / mean
                for index, each in zip(members, scores, strict=True)
            ]
        for each, strength in zip(scores, strengths, strict=True):
            if strength:
                each.push(strength)

    def _pull(self, controller: Controller, noise: float, members: Arena) -> float:
        """Return the gradient that the pressure stands for; plain SGD is told how far, Adam only how hard."""
        if self.criterion.optimizer == "sgd":
            factor = self.rates[self.competition.bundles[members[0]].name].factor
            return controller.pressure * STRIDE / (self.criterion.learning_rate * factor or 1.0)
        return controller.pressure * math.sqrt(noise)

    def _steepness(self) -> float:
        """Return the slope of the penalty at the point where a pressure is a gradient."""
        return float(self.gated.slope(torch.tensor(self.gated.pressure_point(self._cut(1.0)), dtype=torch.float64)))

    def _cut(self, progress: float) -> float:
        return self.gated.cut(self.threshold.at(progress) if self.threshold else 0.0)

    # ------------------------------------------------------------------ masks

    def update(self, step: int) -> None:
        self.failure, self.gating = None, step > self.plan.stage.begin
        super().update(step)
        if self.alive:
            self._set_gates()
        if self.failure is not None:
            raise self.failure

    def _rank(self, step: int, before: Mapping[str, Tensor]) -> None:
        cut = self._cut(self.plan.window.progress(step))
        pruned = [self._keep_above(members, cut, before) for members in self.shares]
        if self.ramp is not None:
            passed = step - max(self.done, self.plan.window.begin)
            for share, controller, gone in zip(self._targets(step), self.controllers, pruned, strict=True):
                controller.steer(share.sparsity, gone / max(self.competition.elements(share.members), 1), passed)
        if step >= self.plan.window.end:
            self._harden(step, before)

    def _targets(self, step: int) -> list[Share]:
        """Return what every controller steers to: the scope may divide the sparsity unequally."""
        arenas = self.competition.arenas
        return [share for arena in arenas for share in self.competition.shares(arena, self._wanted(arena, step))]

    def _keep_above(self, members: Arena, cut: float, before: Mapping[str, Tensor]) -> int:
        """Put the masks of a threshold in force; return how many weights they prune."""
        pruned = 0
        tiles = self.competition.above(members, cut, self.gated.floor, self.learned(), before)
        for index, (kept, passed) in zip(members, tiles, strict=True):
            bundle = self.competition.bundles[index]
            if self.gated.stochastic:
                self._force(bundle.name, kept & ~passed)
            masks = without_revived(expand(bundle, kept), before)
            pruned += sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks.values())
            self._put(masks)
        return pruned

    def _force(self, name: str, tiles: Tensor) -> None:
        """Note what is kept though its gate is closed; usually nothing is."""
        self.forced.pop(name, None)
        if bool(tiles.any()):
            self.forced[name] = tiles

    def _harden(self, step: int, before: Mapping[str, Tensor]) -> None:
        """Make the last masks: gates are open or closed from now on, and the sparsity is the one asked for.

        Open gates are multiplied into their weights, which changes nothing; what the budget changes is measured.
        """
        self._set_gates()
        at_threshold, metrics = self._sparsity(), self._metrics()
        goals = {
            tuple(arena): goal for arena in self.competition.arenas if (goal := self._goal(arena, step)) is not None
        }
        if goals:
            masks = self.competition.masks(lambda arena: goals.get(tuple(arena), 0.0), before, self.learned())
            members = [index for arena in goals for index in arena]
            self._put({weight.name: masks[weight.name] for weight in self._weights(members)})
        self.found = {
            "sparsity_at_threshold": at_threshold,
            "sparsity": self._sparsity(),
            "lambda": self._strengths(step),
        }
        if metrics is not None:
            after = self._metrics()
            if after is not None:
                self.found["metrics"] = {"at_threshold": metrics, "after": after}

    def _goal(self, arena: Arena, step: int) -> float | None:
        """Return the sparsity that an arena is brought to at the end; None where it stays as the threshold left it."""
        if self.ramp is None:
            return None
        wanted = self._wanted(arena, step)
        if self.plan.spec.exact:
            return wanted
        off = self._pruned(arena) / max(self.competition.elements(arena), 1) - wanted
        return None if abs(off) <= NEAR else wanted + math.copysign(NEAR, off)

    def _pruned(self, members: Arena) -> int:
        """Count what the masks in force prune of some bundles."""
        return self.masks.pruned(self._weights(members))

    def _sparsity(self) -> float:
        """Return the sparsity of the masks."""
        members = range(len(self.competition.bundles))
        return self._pruned(members) / max(self.competition.elements(members), 1)

    def _metrics(self) -> dict[str, float] | None:
        """Return what the user's evaluation finds now; None without one, or where it fails: measuring must not stop us.

        Its error is raised when the update is made.
        """
        if self.session.evaluate is None or self.failure is not None:
            return None
        self.masks.refresh()
        try:
            return measured(self.session.evaluate, self.session.model)
        except Exception as error:
            self.failure = error
            return None

    def _strengths(self, step: int) -> dict[str, float]:
        """Return λ by the first bundle of every share."""
        names = [self.competition.bundles[members[0]].name for members in self.shares]
        if self.plan.strength is not None:
            return dict.fromkeys(names, self.plan.strength.at(step))
        counts = [sum(self.competition.bundles[index].tiles for index in members) for members in self.shares]
        return {
            name: self._pull(controller, controller.noise, members) * count / self._steepness()
            for name, controller, members, count in zip(names, self.controllers, self.shares, counts, strict=True)
        }

    def _asked(self, arena: Arena, step: int) -> list[tuple[Arena, int]]:
        return super()._asked(arena, step) if self._exactly(step) else [(arena, self._pruned(arena))]

    def _exactly(self, step: int) -> bool:
        return self.plan.spec.exact and step >= self.plan.window.end

    # ------------------------------------------------------------------ state and report

    def report(self) -> dict[str, Any]:
        return self.found

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        controllers = [controller.state_dict() for controller in self.controllers]
        return state | {
            "gating": self.gating,
            "controllers": controllers,
            "forced": dict(self.forced),
            "found": dict(self.found),
        }

    def check_state(self, state: StateReader, step: int) -> None:
        super().check_state(state, step)
        state.flag("gating")
        for controller in state.parts("controllers", len(self.controllers)):
            Controller.check(controller)
        forced = state.part("forced")
        tiles = {bundle.name: bundle.tiles for bundle in self.competition.bundles}
        for name in forced.within(tiles):
            forced.tensor(name, (tiles[name],), torch.bool)
        check_findings(state.part("found"))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.controllers = [Controller(**saved) for saved in state["controllers"]]
        devices = {name: scores.values.device for name, scores in self.scores.items()}
        self.forced = {name: tiles.to(devices.get(name, tiles.device)) for name, tiles in state["forced"].items()}
        self.found = dict(state["found"])
        self.slopes, self.noises = {}, []
        self.gating = bool(state["gating"])
        if self.alive:
            self._set_gates()


def check_findings(found: StateReader) -> None:
    """Raise StateError for findings that are not ours."""
    for key in found:
        if key in ("sparsity_at_threshold", "sparsity"):
            found.number(key)
        elif key == "lambda":
            strengths = found.part(key)
            for name in strengths:
                strengths.number(name)
        elif key == "metrics":
            metrics = found.part(key).exactly(("at_threshold", "after"))
            for side in (metrics.part("at_threshold"), metrics.part("after")):
                for name in side:
                    side.measured(name)
        else:
            raise found.fail(key, "is not known here")


def measured(evaluate: Callable[[nn.Module], Mapping[str, float]], model: nn.Module) -> dict[str, float]:
    """Return what `evaluate` finds; the model stays in its mode, and the generators where they are."""
    training = model.training
    try:
        with torch.random.fork_rng(), torch.no_grad():
            return {name: float(value) for name, value in evaluate(model).items()}
    finally:
        model.train(training)


def _weighing(plan: PrunePlan) -> tuple[list[float], list[float]]:
    """Return the weight of every bundle's role, and its part of the mean of means (see `Penalty`)."""
    roles = plan.spec.penalty.roles if plan.spec.penalty else {}
    facts = plan.competition.facts
    own = [each.role if each.role in roles else "" for each in facts]
    weights = [roles.get(role, 1.0) for role in own]
    return weights, [weight / (len(set(own)) * own.count(role)) for weight, role in zip(weights, own, strict=True)]
