"""A `prune` by ADMM: dense weights x are trained towards a sparse copy z, which they become when the window ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify.layers import Weight
from sparsify.modifiers.contract import Session, Shortfall, Wanted
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.prune.run import PruneRun
from sparsify.optimizers import minimising
from sparsify.state_reader import StateReader

STRENGTH = 0.01
"""λ where the recipe says nothing, as published."""


@dataclass(frozen=True)
class End:
    """What the weights become when the window ends; kept until it is in force, for an interruption may come before."""

    values: dict[str, Tensor]
    masks: dict[str, Tensor]


@dataclass(frozen=True)
class Copy:
    """The sparse copy z of a weight, and the dual variable u, in the weight's shape and dtype."""

    z: Tensor
    u: Tensor


class AdmmRun(PruneRun):
    """Minimises loss(x) + λ/2·‖x − z + u‖², where z is the nearest sparse tensor to x + u.

    The user's optimizer trains x on the loss; λ(x − z + u) is added to its gradients. At every update z is selected
    anew from x + u, under the pattern and the scope of the recipe, and u += x − z. Source: "The Unseen Frontier:
    Pushing the Limits of LLM Sparsity with Surrogate-Free ADMM" (arXiv 2510.01650).
    """

    def __init__(self, plan: PrunePlan, session: Session) -> None:
        super().__init__(plan, session)
        minimising(session.optimizers, plan.key)
        self.targeted = {weight.name: weight for weight in plan.weights}
        self.copies: dict[str, Copy] = {}
        """By weight; empty outside of the window."""
        self._made = -1
        """The step of the last update of the copies, which an interruption must not have made twice."""
        self._end: End | None = None

    # ------------------------------------------------------------------ the step

    def needs_gradients(self, step: int) -> bool:
        return bool(self.copies)

    @torch.no_grad()
    def penalise(self, step: int) -> None:
        strength = self.plan.strength.at(step) if self.plan.strength is not None else STRENGTH
        for name, copy in self.copies.items():
            weight = self.targeted[name]
            if weight.parameter.grad is not None:
                weight.region(weight.parameter.grad).add_(weight.tensor - copy.z + copy.u, alpha=strength)

    # ------------------------------------------------------------------ updates

    def _rank(self, step: int, before: Mapping[str, Tensor]) -> None:
        """Make z and u anew; in the end, take z, and put its masks in force."""
        if step < self.plan.window.end:
            if self._made != step:
                sums, masks = self._select(step, before)
                first = not self.copies  # z is the nearest to x, and nothing has been added up yet
                self._made, self.copies = step, {name: _copy(sums[name], masks[name], first) for name in sums}
            return
        if self._end is None:
            sums, masks = self._select(step, before)
            self._end = End({name: torch.where(masks[name], value, 0) for name, value in sums.items()}, masks)
        self._write(self._end.values)
        self._put(self._end.masks)
        self.copies, self._end = {}, None

    def _select(self, step: int, before: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return x + u, and the masks of its nearest sparse tensors, by weight."""
        dense = {name: weight.tensor.clone() for name, weight in self.targeted.items()}
        sums = {name: x + self.copies[name].u if self.copies else x for name, x in dense.items()}
        try:
            self._write(sums)  # where the selection reads weights
            return sums, self.competition.masks(lambda arena: self._wanted(arena, step), before)
        finally:
            self._write(dense)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.targeted[name].tensor.copy_(value)

    def sparse_copy(self) -> Iterator[tuple[Weight, Tensor]]:
        return ((self.targeted[name], copy.z) for name, copy in self.copies.items())

    # ------------------------------------------------------------------ what was asked for

    def wanted(self, step: int) -> Iterator[Wanted]:
        """Until the window ends the weights are dense by intent."""
        return super().wanted(step) if self.done >= self.plan.window.end else iter(())

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        return super().verify(partial=partial) if self.done >= self.plan.window.end else []

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        copies = {name: {"z": copy.z, "u": copy.u} for name, copy in self.copies.items()}
        return {**super().state_dict(), "copies": copies}

    def check_state(self, state: StateReader, step: int) -> None:
        super().check_state(state, step)
        copies = state.part("copies")
        inside = 0 <= state.integer("done", -1) < self.plan.window.end
        copies.exactly(list(self.targeted) if inside else [])
        for name in copies:
            own = copies.part(name).exactly(("z", "u"))
            for key in ("z", "u"):
                own.tensor(key, self.targeted[name].shape, self.targeted[name].parameter.dtype)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._made = self.done
        self.copies = {
            name: Copy(*(saved[key].to(self.targeted[name].parameter.device, copy=True) for key in ("z", "u")))
            for name, saved in state["copies"].items()
        }


def _copy(value: Tensor, mask: Tensor, first: bool) -> Copy:
    """Return z, and u = x + u − z, of the sum x + u."""
    z = torch.where(mask, value, 0)
    return Copy(z, torch.zeros_like(z) if first else value - z)
