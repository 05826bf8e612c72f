"""A `prune` at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsify.masking import count_zeros
from sparsify.modifiers.base import Run, Session, Shortfall
from sparsify.schedules import EXISTING
from sparsify.scopes.base import Arena

if TYPE_CHECKING:
    from sparsify.modifiers.prune_plan import PrunePlan


class PruneRun(Run):
    """Makes masks when they are due, and puts them into the store; with latent masking it holds the weights too."""

    def __init__(self, plan: PrunePlan, session: Session) -> None:
        super().__init__(plan)
        self.plan = plan
        self.ramp = plan.ramp
        self.competition = plan.competition
        self.session = session
        self.masks = session.masks
        self.weights = {weight.name: weight for weight in (*plan.weights, *plan.followers)}
        self.existing: dict[str, int] = {}
        """Zeros found in each bundle when the window opened, where the recipe asks for them."""
        self.done = -1
        """The step of the last update made."""
        self.alive = False
        """Whether latent weights are held: from the beginning of the stage to the end of the window."""

    @property
    def _keeps_zeros(self) -> bool:
        return self.competition.criterion.keeps_zeros

    def update(self, step: int) -> bool:
        end = self.plan.window.end
        if self.plan.spec.latent and not self.alive and self.plan.begin <= step <= end and self.done < end:
            self._begin()
        if not self.plan.window.due(step) or step <= self.done:
            return False
        self._make(step)
        self.done = step
        if self.alive and step >= end:
            self._settle()
        return True

    def _begin(self) -> None:
        """Keep the weights aside."""
        for weight in self.weights.values():
            self.masks.hold(weight)
        self.alive = True

    def _settle(self) -> None:
        """The last mask is made: what is pruned now is lost."""
        for name in self.weights:
            self.masks.release(name)
        self.alive = False

    def last_update(self) -> int:
        return self.plan.window.end

    def sparsity(self, step: int) -> float | None:
        superseded = self.done >= 0 and not self._ours(range(len(self.competition.bundles)))
        if step < self.plan.window.begin or self.ramp is None or superseded:
            return None
        return self._wanted(range(len(self.competition.bundles)), step)

    def _make(self, step: int) -> None:
        if self._keeps_zeros:
            masks = self.competition.lock()
            self.existing = {
                bundle.name: sum(int((~masks[part.weight.name]).sum()) for part in bundle.parts)
                for bundle in self.competition.bundles
            }
        else:
            if self.ramp and self.ramp.from_ == EXISTING and not self.existing:
                self.existing = {bundle.name: self._zeros([i]) for i, bundle in enumerate(self.competition.bundles)}
            masks = self._ranked(step)
        self._put(masks)

    def _ranked(self, step: int) -> dict[str, Tensor]:
        """Return masks of the budget of this step."""
        nested = self.done >= 0 and not self.alive  # latent weights may come back
        before = {part.name: self.masks[part.name] for part in self.plan.weights} if nested else None
        return self.competition.masks(lambda arena: self._wanted(arena, step), before)

    def _put(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks in force, and those of the biases that follow them."""
        for name, mask in masks.items():
            weight = self.weights[name]
            self.masks.set(weight, mask, self.key)
            if bias := self.plan.biases.get(name):
                self.masks.set(bias, weight.cube(mask).flatten(1).any(1), self.key)

    def _zeros(self, members: Arena) -> int:
        """Count the zeros of some bundles."""
        parts = (part for index in members for part in self.competition.bundles[index].parts)
        return sum(count_zeros(part.weight.tensor) for part in parts)

    def _wanted(self, members: Arena, step: int) -> float:
        """Return the sparsity that these bundles together should have."""
        assert self.ramp is not None
        zeros = sum(self.existing.get(self.competition.bundles[index].name, 0) for index in members)
        progress = self.plan.window.progress(step)
        return self.ramp.at(progress, zeros / max(self.competition.elements(members), 1))

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        if self.done < 0:
            return []
        upto = self.done if partial else self.plan.window.end
        short = []
        for arena in self.competition.arenas:
            for members, wanted in self._asked(arena, upto):
                if not self._ours(members):
                    continue
                found = self._zeros(members)
                if found < wanted:
                    name = self.competition.bundles[members[0]].name
                    label = name if len(members) == 1 else f"{len(members)} tensors together"
                    short.append(Shortfall(label, wanted, found, self.competition.elements(members), self.key))
        return short

    def _ours(self, members: Arena) -> bool:
        """Whether the masks in force of some bundles are ours; a later modifier may have taken over."""
        parts = (part for index in members for part in self.competition.bundles[index].parts)
        return all(self.masks.owner(part.weight.name) == self.key for part in parts)

    def _asked(self, arena: Arena, step: int) -> list[tuple[Arena, int]]:
        """Return the zeros asked for by `step`, by those that share them."""
        if self._keeps_zeros:
            return [(arena, sum(self.existing[self.competition.bundles[index].name] for index in arena))]
        shares = self.competition.shares(arena, self._wanted(arena, step))
        return [(share.members, self.competition.asked(share)) for share in shares]

    def state_dict(self) -> dict[str, Any]:
        state = {"done": self.done, "existing": dict(self.existing), "alive": self.alive}
        if self.alive:
            state["latent"] = {name: self.masks.latent(name).tensor for name in self.weights}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])
        self.existing = {str(name): int(zeros) for name, zeros in state["existing"].items()}
        if self.alive:
            self._settle()
        if state["alive"]:
            self._begin()
            for name, weight in self.weights.items():
                self.masks.hold(weight, state["latent"][name])
