"""A `substitute` at work: it measures norms, moves λ on, and folds what was measured into weights at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import ranks
from sparsify.errors import SparsityError, StateError
from sparsify.modifiers.contract import Run, Session, Shortfall
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.substitute.saying import say
from sparsify.schedules.base import Curve
from sparsify.state_reader import StateReader
from sparsify.structure.change import Substituted
from sparsify.substitutes import AFTER, BEFORE, BETWEEN, Gradual, NoNorm, Substitute

DECAY = 0.99
"""What averages keep at a step at the beginning of the window; at its end they keep everything, as in nn_pruning."""


@dataclass(frozen=True, kw_only=True)
class SubstitutePlan(ModifierPlan):
    """A `substitute` resolved to steps and modules. It has no `weights`: it masks nothing."""

    curve: Curve
    change: Substituted

    def share(self, step: int) -> float:
        """Return λ after `step` completed steps."""
        window = self.window
        if not window.begin <= step < window.end:
            return float(step >= window.end)
        last = step - (step - window.begin) % window.every
        return self.curve.value(window.progress(last), 0.0, 1.0)


class SubstituteRun(Run):
    """Owns no weights; in the end it writes those of norms, whose function does not change by that."""

    plan: SubstitutePlan

    def __init__(self, plan: SubstitutePlan, session: Session) -> None:
        super().__init__(plan)
        self.session, model = session, session.model
        self.places = {
            path: found
            for path in (*plan.change.norms, *plan.change.activations)
            if isinstance(found := _standing(model, path), Substitute)
        }
        self.norms = [each for each in self.places.values() if isinstance(each, NoNorm)]
        self.activations = [each for each in self.places.values() if isinstance(each, Gradual)]
        self.averages = torch.zeros(len(self.norms), 3, dtype=torch.float64)
        """Of each norm: means of μ and σ², and the weight of all of them together."""

    # ------------------------------------------------------------------ measuring

    def on_step_begin(self, step: int, batch: Any) -> None:
        self._gather(self.plan.window.begin <= step < self.plan.window.end)

    def _gather(self, gathers: bool) -> None:
        for norm in self.norms:
            norm.gather(gathers)

    def commit(self, step: int, skipped: Collection[int]) -> None:
        if any(norm.gathers for norm in self.norms):
            sums = ranks.mean_(torch.stack([norm.sums.float() for norm in self.norms])).double().cpu()
            seen = sums[:, 2] > 0
            new = torch.cat((sums[:, :2] / sums[:, 2:].clamp(min=1e-9), torch.ones_like(sums[:, 2:])), dim=1)
            decay = DECAY + (1 - DECAY) * self.plan.window.progress(step)
            self.averages = torch.where(seen[:, None], decay * self.averages + (1 - decay) * new, self.averages)
        self._gather(False)

    def rollback(self) -> None:
        self._gather(False)

    # ------------------------------------------------------------------ λ

    def due(self, step: int) -> bool:
        return self.plan.window.due(step)

    def update(self, step: int) -> None:
        if step >= self.plan.window.end:
            self._finish()
        else:
            self._blend(step)

    def _rows(self, share: float) -> Tensor:
        """Return λ, m and v of each norm; λ is 0 for what was never computed in a training step."""
        weight = self.averages[:, 2:]
        known = weight > 0
        rows = torch.cat((known * share, torch.where(known, self.averages[:, :2] / weight.clamp(min=1e-300), 0.0)), 1)
        return rows.float()

    def _blend(self, step: int) -> None:
        share = self.plan.share(step)
        for norm, row in zip(self.norms, self._rows(share), strict=True):
            if norm.phase != AFTER:
                norm.blend(row)
        for activation in self.activations:
            if activation.phase != AFTER:
                activation.blend(torch.tensor([share, 0.0, 0.0]))
        phases = {each.phase for each in (*self.norms, *self.activations)}
        if phases:
            say(self.session.model, self.plan.change, phases.pop() if len(phases) == 1 else BETWEEN)

    def _finish(self) -> None:
        """Only the new functions are computed from now on. Moments of weights that were folded begin anew."""
        for norm, (_, m, v) in zip(self.norms, self._rows(1.0).tolist(), strict=True):
            if norm.phase == AFTER:
                continue
            if v > 0:
                norm.fold(m, v)
            norm.close()
            for optimizer in self.session.optimizers:
                for parameter in norm.parameters(recurse=False):
                    optimizer.state.pop(parameter, None)
        self._close()

    def _close(self) -> None:
        for each in (*self.norms, *self.activations):
            each.close()
        say(self.session.model, self.plan.change, AFTER)

    def last_update(self) -> int:
        return self.plan.window.end

    def follow(self, other: nn.Module) -> None:
        pairs = [(mine, _standing(other, path)) for path, mine in self.places.items()]
        for path, (mine, theirs) in zip(self.places, pairs, strict=True):
            if type(theirs) is not type(mine):
                raise StateError(
                    f"{path} is a {type(theirs).__name__} in the model given to project(), and cannot follow "
                    f"{self.key}: copy the model after apply() or attach()"
                )
        for mine, theirs in pairs:
            theirs.follow(mine)
        phases = {mine.phase for mine in self.places.values()}
        if phases:
            say(other, self.plan.change, phases.pop() if len(phases) == 1 else BETWEEN)

    # ------------------------------------------------------------------ what was found

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        left = sum(each.phase != AFTER for each in (*self.norms, *self.activations))
        there = set(map(id, self.session.model.modules()))
        if any(id(each) not in there for each in (*self.norms, *self.activations)):
            raise SparsityError(f"{self.key}: modules that were substituted have been replaced since apply()")
        if left and not partial and self.session.step() >= self.plan.window.end:
            raise SparsityError(f"{self.key}: {left} modules still compute what they did")
        return []

    def report(self) -> dict[str, Any]:
        every = (*self.norms, *self.activations)
        done = all(each.phase == AFTER for each in every)
        return {
            "norms": len(self.plan.change.norms),
            "activations": len(self.plan.change.activations),
            "share": 1.0 if done else self.plan.share(self.session.step()),
            "loading": self.plan.facts["loading"],
            "never computed": int((self.averages[:, 2] == 0).sum()) if self.session.step() > 0 else 0,
        }

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages.clone()}

    def check_state(self, state: StateReader, step: int) -> None:
        averages = state.exactly(("averages",)).tensor("averages", (len(self.norms), 3), torch.float64)
        if bool((averages[:, 1:] < 0).any()):
            raise state.fail("averages", "variances and weights are not negative")
        closed = sum(not each.opens for each in (*self.norms, *self.activations))
        if closed and step < self.plan.window.end:
            raise state.fail("averages", "the model is substituted already; load it as it was before the training")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.averages = state["averages"].cpu().clone()
        for each in (*self.norms, *self.activations):
            each.phase = BEFORE if each.opens else AFTER
        self._gather(False)
        if self.session.step() >= self.plan.window.end:
            self._close()  # the weights were folded when they were saved
        else:
            self._blend(self.session.step())


def _standing(model: nn.Module, path: str) -> Any:
    """Return the module or function at a place; None where there is none."""
    parent, _, attribute = path.rpartition(".")
    try:
        return getattr(model.get_submodule(parent), attribute)
    except AttributeError:
        return None
