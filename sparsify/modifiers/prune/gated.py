"""A `prune` with gates at work: a threshold on learned scores, and a penalty that pushes them down."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from sparsify.criteria.learned import Gated
from sparsify.masking.competition import Share
from sparsify.masking.earlier import without_revived
from sparsify.masking.groups import expand
from sparsify.modifiers.contract import Session
from sparsify.modifiers.prune.learned import LearnedRun
from sparsify.modifiers.prune.measuring import check_findings, measured
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.prune.steering import Steering
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
        self.steering = Steering(plan, self.gated, self._cut(1.0), self.rates)
        self.forced: dict[str, Tensor] = {}
        """Tiles that are kept though their gates are closed, by bundle."""
        self.slopes: dict[str, Tensor] = {}
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
            self.masks.set_gate(part.weight, part, gates, sampled=sampled)

    def _no_gate(self, name: str) -> None:
        for part in self.scores[name].bundle.parts:
            self.masks.set_gate(part.weight, None, None, sampled=False)

    def _slopes(self, bundle: str) -> Tensor | None:
        return self.slopes.get(bundle)

    def commit(self, step: int, skipped: Collection[int]) -> None:
        if not skipped:
            self.steering.commit()
        super().commit(step, skipped)
        for weight in self.plan.masked if self.samples(step) else ():
            self.masks.latent(weight).rest()

    def rollback(self) -> None:
        super().rollback()
        self._set_gates()

    def pause(self) -> None:
        self._set_gates()

    def penalise(self, step: int) -> None:
        if self.alive:
            self.steering.push(step, self.scores)
        super().penalise(step)

    # ------------------------------------------------------------------ masks

    def _cut(self, progress: float) -> float:
        return self.gated.cut(self.threshold.at(progress) if self.threshold else 0.0)

    def update(self, step: int) -> None:
        self.failure, self.gating = None, step > self.plan.stage.begin
        try:
            super().update(step)
        finally:
            if self.alive:
                self._set_gates()
        if self.failure is not None:
            raise self.failure

    def _rank(self, step: int, before: Mapping[str, Tensor]) -> None:
        cut = self._cut(self.plan.window.progress(step))
        found = [self._keep_above(members, cut, before) for members in self.steering.shares]
        if self.ramp is not None:
            passed = step - max(self.done, self.plan.window.begin)
            self.steering.steer([share.sparsity for share in self._targets(step)], found, passed)
        if step >= self.plan.window.end:
            self._harden(step, before)

    def _targets(self, step: int) -> list[Share]:
        """Return what every controller steers to: the scope may divide the sparsity unequally."""
        arenas = self.competition.arenas
        return [share for arena in arenas for share in self.competition.shares(arena, self._wanted(arena, step))]

    def _keep_above(self, members: Arena, cut: float, before: Mapping[str, Tensor]) -> float:
        """Put the masks of a threshold in force; return the sparsity that they make."""
        pruned = 0
        tiles = self.competition.above(members, cut, self.gated.floor, self.learned(), before)
        for index, (kept, passed) in zip(members, tiles, strict=True):
            bundle = self.competition.bundles[index]
            if self.gated.stochastic:
                self._force(bundle.name, kept & ~passed)
            masks = without_revived(expand(bundle, kept), before)
            pruned += sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks.values())
            self._put(masks)
        return pruned / max(self.competition.elements(members), 1)

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
            "lambda": self.steering.report(step),
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

    def _asked(self, arena: Arena, step: int) -> list[tuple[Arena, int]]:
        return super()._asked(arena, step) if self._exactly(step) else [(arena, self._pruned(arena))]

    def _exactly(self, step: int) -> bool:
        return self.plan.spec.exact and step >= self.plan.window.end

    # ------------------------------------------------------------------ state and report

    def report(self) -> dict[str, Any]:
        return self.found

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state | {
            "gating": self.gating,
            "controllers": self.steering.state_dict(),
            "forced": dict(self.forced),
            "found": dict(self.found),
        }

    def check_state(self, state: StateReader, step: int) -> None:
        super().check_state(state, step)
        state.flag("gating")
        self.steering.check_state(state.parts("controllers", len(self.steering.shares)))
        forced = state.part("forced")
        tiles = {bundle.name: bundle.tiles for bundle in self.competition.bundles}
        for name in forced.within(tiles):
            forced.tensor(name, (tiles[name],), torch.bool)
        check_findings(state.part("found"))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steering.load_state_dict(state["controllers"])
        devices = {name: scores.values.device for name, scores in self.scores.items()}
        self.forced = {name: tiles.to(devices.get(name, tiles.device)) for name, tiles in state["forced"].items()}
        self.found = dict(state["found"])
        self.slopes = {}
        self.gating = bool(state["gating"])
        if self.alive:
            self._set_gates()
