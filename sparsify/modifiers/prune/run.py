"""A `prune` at work: masks of a budget, made when they are due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparsify.layers import Weight
from sparsify.masking import count_zeros
from sparsify.masking.earlier import pruned_elements
from sparsify.masking.packing import pack, unpack
from sparsify.modifiers.contract import Run, Session, Shortfall, Wanted
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.schedules import EXISTING
from sparsify.scopes.base import Arena
from sparsify.state_reader import StateReader


class PruneRun(Run):
    """Makes masks when they are due, and puts them into the store; with latent masking it holds the weights too.

    What others have pruned before stays pruned; with `from: existing`, so do the zeros that are there.
    """

    plan: PrunePlan

    def __init__(self, plan: PrunePlan, session: Session) -> None:
        super().__init__(plan)
        self.ramp = plan.ramp
        self.competition = plan.competition
        self.session = session
        self.masks = session.masks
        self.weights = {weight.name: weight for weight in plan.masked}
        self.existing: dict[str, int] = {}
        """By bundle: weights that were pruned, in whole groups, when the window opened."""
        self.done = -1
        """The step of the last update made; that of the window's end also where it was made later."""
        self.alive = False
        """Whether latent weights are held: from the beginning of the stage to the end of the window."""

    @property
    def _keeps_zeros(self) -> bool:
        return self.competition.criterion.keeps_zeros

    # ------------------------------------------------------------------ when

    def enter(self, step: int) -> None:
        if self.plan.latent and not self.alive:
            self._hold()
            self.alive = True

    def _hold(self) -> None:
        """Keep the weights aside. With `from: existing`, their zeros cannot come back."""
        for weight in self.weights.values():
            self.masks.hold(weight)
        if self.ramp is not None and self.ramp.from_ == EXISTING:
            for weight in self.plan.weights:
                self.masks.latent(weight).fix(self._not_zero(weight))

    def _not_zero(self, weight: Weight) -> Tensor:
        """Return what counts as alive with `from: existing`: a bias does, even at zero, unless its row is empty."""
        alive = weight.tensor != 0
        for matrix in self.plan.weights if weight.layout == "bias" else ():
            if matrix.bias() == weight:
                alive |= matrix.cube(matrix.tensor).flatten(1).any(1)
        return alive

    def due(self, step: int) -> bool:
        """Whether an update is due; the last one also later, if it could not be made in time."""
        window = self.plan.window
        return step > self.done and (window.due(step) or (step > window.end > self.done))

    def update(self, step: int) -> None:
        if not self.due(step):
            if self.alive and self.done >= self.plan.window.end:  # the last update was interrupted
                self._let_go()
            return
        if self.alive:
            self._expose()
        self._make(step)
        self.done = min(step, self.plan.window.end)
        if step >= self.plan.window.end:
            self._let_go()

    def _expose(self) -> None:
        """Have the model hold the latent weights, which are ranked as they are."""
        self.masks.expose(self.weights.values())

    def _let_go(self) -> None:
        """The last mask is made: what is pruned now is lost."""
        if self.alive:
            self.masks.drop(self.weights.values())
        self.alive = False

    def last_update(self) -> int:
        return self.plan.window.end

    # ------------------------------------------------------------------ masks

    def _make(self, step: int) -> None:
        before = self._before()
        if self._keeps_zeros:
            masks = self.competition.lock()
            for name, mask in before.items():
                masks[name] &= mask
            self.existing = {
                bundle.name: sum(int((~masks[part.weight.name]).sum()) for part in bundle.parts)
                for bundle in self.competition.bundles
            }
            self._put(masks)
            return
        if self.done < 0:
            self.existing = {
                bundle.name: pruned
                for bundle in self.competition.bundles
                if (pruned := pruned_elements(bundle, before))
            }
        self._rank(step, before)

    def _rank(self, step: int, before: Mapping[str, Tensor]) -> None:
        """Put masks of the budget of this step in force."""
        self._put(self.competition.masks(lambda arena: self._wanted(arena, step), before))

    def _before(self) -> dict[str, Tensor]:
        """Return, by weight, what must stay pruned (False), where there is anything."""
        found = {}
        for weight in self.plan.weights:
            mask = self.masks.latent(weight).fixed if self.alive else self.masks.of(weight)
            if self.done < 0 and not self.alive and self.ramp is not None and self.ramp.from_ == EXISTING:
                alive = self._not_zero(weight)
                mask = alive if mask is None else mask & alive
            if mask is not None:
                found[weight.name] = mask
        return found

    def _put(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks in force, and those of the biases that follow them."""
        for name, mask in masks.items():
            weight = self.weights[name]
            self.masks.set(weight, mask, self.key)
            if bias := self.plan.biases.get(name):
                self.masks.set(bias, weight.cube(mask).flatten(1).any(1), self.key)

    # ------------------------------------------------------------------ what was asked for

    def _wanted(self, members: Arena, step: int) -> float:
        """Return the sparsity that these bundles together should have: never less than what was pruned before."""
        assert self.ramp is not None
        pruned = sum(self.existing.get(self.competition.bundles[index].name, 0) for index in members)
        start = pruned / max(self.competition.elements(members), 1)
        return max(self.ramp.at(self.plan.window.progress(step), start), start)

    def wanted(self, step: int) -> Iterator[Wanted]:
        if (self.done < 0 and step < self.plan.window.begin) or (self.ramp is None and not self._keeps_zeros):
            return
        for arena in self.competition.arenas:
            weights = tuple(part.weight for index in arena for part in self.competition.bundles[index].parts)
            if self._keeps_zeros:
                zeros = float(sum(self.existing.get(self.competition.bundles[index].name, 0) for index in arena))
            else:
                zeros = self._wanted(arena, step) * self.competition.elements(arena)
            yield Wanted(weights, zeros)

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        if self.done < 0:
            return []
        upto = self.done if partial else self.plan.window.end
        short = []
        for arena in self.competition.arenas:
            for members, wanted in self._asked(arena, upto):
                found = self._zeros(members)
                if found < wanted and self._ours(members):
                    name = self.competition.bundles[members[0]].name
                    label = name if len(members) == 1 else f"{len(members)} tensors together"
                    short.append(Shortfall(label, wanted, found, self.competition.elements(members), self.key))
        return short

    def _zeros(self, members: Arena) -> int:
        """Count the zeros of some bundles."""
        return sum(count_zeros(weight.tensor) for weight in self._weights(members))

    def _ours(self, members: Arena) -> bool:
        """Whether the masks in force of some bundles are ours; a later modifier may have taken over."""
        return all(self.masks.owned(weight, self.key) for weight in self._weights(members))

    def _weights(self, members: Arena) -> Iterator[Weight]:
        return (part.weight for index in members for part in self.competition.bundles[index].parts)

    def _asked(self, arena: Arena, step: int) -> list[tuple[Arena, int]]:
        """Return the zeros asked for by `step`, by those that share them."""
        if self._keeps_zeros:
            return [(arena, sum(self.existing[self.competition.bundles[index].name] for index in arena))]
        shares = self.competition.shares(arena, self._wanted(arena, step))
        return [(share.members, self.competition.asked(share)) for share in shares]

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"done": self.done, "existing": dict(self.existing), "alive": self.alive}
        if self.alive:
            latents = {name: self.masks.latent(weight) for name, weight in self.weights.items()}
            state["latent"] = {name: latent.tensor for name, latent in latents.items()}
            state["fixed"] = {
                name: pack(latent.fixed.cpu()) for name, latent in latents.items() if latent.fixed is not None
            }
        return state

    def check_state(self, state: StateReader, step: int) -> None:
        window = self.plan.window
        done = state.integer("done", -1, min(step, window.end))  # beyond it, another window's end was meant
        alive = self.plan.latent and self.plan.stage.begin <= step and done < window.end
        if state.flag("alive") != alive:
            raise state.fail("alive", f"expected {str(alive).lower()} at step {step}")
        existing = state.part("existing")
        for bundle in self.competition.bundles:
            if bundle.name in existing:
                existing.integer(bundle.name, 0, bundle.elements)
            elif self._keeps_zeros and done >= 0:
                raise existing.fail(bundle.name, "is missing")
        existing.within([bundle.name for bundle in self.competition.bundles])
        if not alive:
            return
        latent, fixed = state.part("latent").exactly(self.weights), state.part("fixed")
        for name, weight in self.weights.items():
            latent.tensor(name, weight.shape, weight.parameter.dtype)
        for name in fixed.within(self.weights):
            fixed.tensor(name, (-(-self.weights[name].geometry.elements // 8),), torch.uint8)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = int(state["done"])
        self.existing = {str(name): int(zeros) for name, zeros in state["existing"].items()}
        self.alive = bool(state["alive"])
        if not self.alive:
            return
        for name, weight in self.weights.items():
            packed = state["fixed"].get(name)
            fixed = None if packed is None else unpack(packed, weight.shape).to(weight.parameter.device)
            self.masks.hold(weight, state["latent"][name], fixed)
