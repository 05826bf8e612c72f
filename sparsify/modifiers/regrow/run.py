"""A `regrow` at work: a mask at the beginning, exchanges or phases, and the last mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify.layers import Weight
from sparsify.masking import count_zeros
from sparsify.masking.packing import pack, unpack
from sparsify.modifiers.contract import Run, Session, Shortfall, Wanted
from sparsify.modifiers.regrow.exchange import Lot, Member, exchange
from sparsify.modifiers.regrow.plan import RegrowPlan
from sparsify.optimizers import clear_moments
from sparsify.scopes.base import Arena
from sparsify.state_reader import StateReader


@dataclass(frozen=True)
class Made:
    """What an update has decided: made once, and put in force again where that was interrupted."""

    step: int
    masks: Mapping[str, Tensor]
    """Without those that are let go of."""

    cleared: Mapping[str, Tensor]
    """Whose moments begin anew: bool, True, in the shape of the weight's region."""


class RegrowRun(Run):
    """Exchanges small weights for others. What grows begins at zero, with moments of zero."""

    plan: RegrowPlan

    def __init__(self, plan: RegrowPlan, session: Session) -> None:
        super().__init__(plan)
        self.spec, self.competition, self.phases = plan.spec, plan.competition, plan.phases
        self.masks, self.optimizers = session.masks, session.optimizers
        self.weights = {weight.name: weight for weight in plan.weights}
        self.done = -1
        """The step of the last update made; that of the window's end also where it was made later."""
        self.fixed: dict[str, Tensor] = {}
        """What earlier modifiers have pruned (False), where that stays pruned."""
        self.regrown = 0
        self._gradients: dict[str, Tensor] | None = None
        """The dense gradients of the step that is under way, if an exchange follows it."""
        self._made: Made | None = None

    # ------------------------------------------------------------------ when

    def due(self, step: int) -> bool:
        window = self.plan.window
        if self.phases is not None:
            return self.phases.at(step) != (self.phases.at(self.done) if self.done >= 0 else "before")
        return step > self.done and (window.due(step) or step > window.end > self.done)

    def last_update(self) -> int:
        return self.plan.window.end

    def _fraction(self, step: int) -> float:
        return self.spec.fraction.at(self.plan.window.progress(step))

    def _dense(self, step: int) -> bool:
        return self.phases is not None and self.phases.at(step) == "dense"

    # ------------------------------------------------------------------ the step

    def needs_gradients(self, step: int) -> bool:
        follows = self.spec.grow == "gradient" and self.done >= 0
        return follows and self.due(step + 1) and self._fraction(step + 1) > 0

    def observe(self, step: int) -> None:
        self._gradients = None
        if self.needs_gradients(step):
            found = {name: weight.parameter.grad for name, weight in self.weights.items()}
            self._gradients = {
                name: self.weights[name].region(gradient).detach().clone()
                for name, gradient in found.items()
                if gradient is not None
            }

    def rollback(self) -> None:
        self._gradients = None

    # ------------------------------------------------------------------ updates

    def update(self, step: int) -> None:
        if not self.due(step):
            return
        if self._made is None or self._made.step != step:
            if self.done < 0:
                self.fixed = self._pruned_before()
            self._made = self._make(step)
        self._put(self._made)
        self.done = min(step, self.plan.window.end)
        self._gradients = self._made = None

    def _pruned_before(self) -> dict[str, Tensor]:
        """Return the masks of others, where something in them is pruned and stays so."""
        found = {}
        for name, weight in self.weights.items() if self.spec.existing == "stay" else ():
            mask = self.masks.of(weight)
            if mask is not None and not self.masks.owned(weight, self.key) and not bool(mask.all()):
                found[name] = mask.clone()
        return found

    def _make(self, step: int) -> Made:
        """Decide on new masks."""
        if self._dense(step):
            every = {name: torch.ones_like(weight.tensor, dtype=torch.bool) for name, weight in self.weights.items()}
            return Made(step, {name: mask.clone() for name, mask in self.fixed.items()}, every)
        if self.done < 0 or self.phases is not None:
            return Made(step, self.competition.masks(lambda arena: self._wanted(arena, step), self.fixed), {})
        before = {name: mask for name, weight in self.weights.items() if (mask := self.masks.of(weight)) is not None}
        masks: dict[str, Tensor] = {}
        lot = Lot(self.spec.seed, step) if self.spec.grow == "random" else None
        for arena in self.competition.arenas:
            for share in self.competition.shares(arena, self._wanted(arena, step)):
                bundles = [self.competition.bundles[index] for index in share.members]
                members = [Member.of(bundle, before, self.fixed, self._gradients) for bundle in bundles]
                bounds = self.spec.scope.bounds(share.sparsity)
                masks |= exchange(members, share.sparsity, bounds, self._fraction(step), lot)
        grown = {name: mask & ~before[name] for name, mask in masks.items() if name in before}
        return Made(step, masks, {name: where for name, where in grown.items() if bool(where.any())})

    @torch.no_grad()
    def _put(self, made: Made) -> None:
        """Put what was decided in force."""
        for name, weight in self.weights.items():
            if name in made.masks:
                self.masks.set(weight, made.masks[name], self.key)
            else:
                self.masks.release(weight)
            if name in made.cleared:
                whole = torch.zeros_like(weight.parameter, dtype=torch.bool)
                weight.region(whole).copy_(made.cleared[name])
                clear_moments(self.optimizers, weight.parameter, whole)
        if self.phases is None:
            self.regrown += sum(int(where.sum()) for where in made.cleared.values())

    def sparse_copy(self) -> Iterator[tuple[Weight, Tensor]]:
        """In a dense phase: the weights under the masks that a compression would make of them now."""
        now = self.done
        if now < 0 or not self._dense(now):
            return
        masks = self.competition.masks(lambda arena: self._wanted(arena, now), self.fixed)
        for name, weight in self.weights.items():
            yield weight, weight.tensor.detach() * masks[name]

    # ------------------------------------------------------------------ what was asked for

    def _fixed_in(self, members: Arena) -> int:
        """Return how many weights of some tensors stay pruned whatever happens."""
        masks = (self.fixed.get(weight.name) for weight in self._of(members))
        return sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in masks if mask is not None)

    def _of(self, members: Arena) -> Iterator[Any]:
        return (part.weight for index in members for part in self.competition.bundles[index].parts)

    def _wanted(self, members: Arena, step: int) -> float:
        """Return the sparsity that these tensors together should have while they are masked."""
        least = self._fixed_in(members) / max(self.competition.elements(members), 1)
        return max(self.spec.sparsity.at(self.plan.window.progress(step)), least)

    def wanted(self, step: int) -> Iterator[Wanted]:
        if self.done < 0 and step < self.plan.window.begin:
            return
        for arena in self.competition.arenas:
            sparsity = self._wanted(arena, step)
            zeros = self._fixed_in(arena) if self._dense(step) else sparsity * self.competition.elements(arena)
            yield Wanted(tuple(self._of(arena)), float(zeros))

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        upto = self.done if partial else self.plan.window.end
        if self.done < 0 or self._dense(upto):
            return []
        short = []
        for arena in self.competition.arenas:
            for share in self.competition.shares(arena, self._wanted(arena, upto)):
                weights = list(self._of(share.members))
                wanted, found = self.competition.asked(share), sum(count_zeros(weight.tensor) for weight in weights)
                if found < wanted and all(self.masks.owned(weight, self.key) for weight in weights):
                    label = weights[0].name if len(weights) == 1 else f"{len(weights)} tensors together"
                    short.append(Shortfall(label, wanted, found, self.competition.elements(share.members), self.key))
        return short

    def report(self) -> dict[str, Any]:
        return {"regrown": self.regrown} if self.phases is None and self.done >= 0 else {}

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        fixed = {name: pack(mask.cpu()) for name, mask in self.fixed.items()}
        return {"done": self.done, "regrown": self.regrown, "fixed": fixed}

    def check_state(self, state: StateReader, step: int) -> None:
        state.exactly(("done", "regrown", "fixed"))
        state.integer("done", -1, min(step, self.plan.window.end))
        state.integer("regrown")
        fixed = state.part("fixed")
        for name in fixed.within(self.weights):
            fixed.tensor(name, (-(-self.weights[name].geometry.elements // 8),), torch.uint8)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done, self.regrown = int(state["done"]), int(state["regrown"])
        self.fixed = {
            name: unpack(packed.cpu(), self.weights[name].shape).to(self.weights[name].parameter.device)
            for name, packed in state["fixed"].items()
        }
