"""A `prune` at work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsify.masking import count_zeros
from sparsify.masking.store import MaskStore
from sparsify.modifiers.base import Run, Shortfall
from sparsify.schedules import EXISTING
from sparsify.scopes.base import Arena

if TYPE_CHECKING:
    from sparsify.modifiers.prune_plan import PrunePlan


class PruneRun(Run):
    """Makes masks when they are due, and puts them into the store."""

    def __init__(self, plan: PrunePlan, masks: MaskStore) -> None:
        super().__init__(plan)
        self.plan = plan
        self.ramp = plan.ramp
        self.competition = plan.competition
        self.masks = masks
        self.weights = {weight.name: weight for weight in plan.weights}
        self.existing: dict[str, int] = {}
        """Zeros found in each bundle when the window opened, where the recipe asks for them."""
        self.done = -1
        """The step of the last update made."""

    @property
    def _keeps_zeros(self) -> bool:
        return self.competition.criterion.keeps_zeros

    def update(self, step: int) -> bool:
        if not self.plan.window.due(step) or step <= self.done:
            return False
        self._make(step)
        self.done = step
        return True

    def last_update(self) -> int:
        return self.plan.window.end

    def sparsity(self, step: int) -> float | None:
        if step < self.plan.window.begin or self.ramp is None:
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
            before = {name: self.masks[name] for name in self.weights} if self.done >= 0 else None
            masks = self.competition.masks(lambda arena: self._wanted(arena, step), before)
        for name, mask in masks.items():
            self.masks.set(self.weights[name], mask)

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
                found = self._zeros(members)
                if found < wanted:
                    name = self.competition.bundles[members[0]].name
                    label = name if len(members) == 1 else f"{len(members)} tensors together"
                    short.append(Shortfall(label, wanted, found, self.competition.elements(members), self.key))
        return short

    def _asked(self, arena: Arena, step: int) -> list[tuple[Arena, int]]:
        """Return the zeros asked for by `step`, by those that share them."""
        if self._keeps_zeros:
            return [(arena, sum(self.existing[self.competition.bundles[index].name] for index in arena))]
        shares = self.competition.shares(arena, self._wanted(arena, step))
        return [(share.members, self.competition.asked(share)) for share in shares]

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "existing": dict(self.existing)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])
        self.existing = {str(name): int(zeros) for name, zeros in state["existing"].items()}
