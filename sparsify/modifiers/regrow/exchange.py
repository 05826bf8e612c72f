"""One update: the smallest weights are dropped, as many others grow, and none that was just dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify.criteria.base import Place
from sparsify.criteria.magnitude import Magnitude
from sparsify.criteria.noise import uniform
from sparsify.masking import Contender, budget
from sparsify.masking.bounds import select_bounded
from sparsify.masking.contenders import of_weights
from sparsify.masking.groups import spread
from sparsify.masking.scorer import check_scores
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.unstructured import Unstructured

Masks = Mapping[str, Tensor]
"""bool, True = keep, in the shape of the weight's region, by its name."""


@dataclass(frozen=True)
class Lot:
    """Growth at random: a hash of seed, step, name and index, so that there is no generator to save."""

    seed: int
    step: int

    def score(self, name: str, start: int, count: int, stride: int, device: torch.device) -> Tensor:
        """Return the scores of `count` weights from `start` on, every `stride`-th; float32, in (0, 1]."""
        places = torch.empty(count, device=device)
        return uniform(self.seed, places, Place(f"{name}@{self.step}", start, stride))


@dataclass(frozen=True)
class Member:
    """A tensor in an exchange: which of its weights are there now, and which may never grow; 1-D, by index."""

    bundle: Bundle
    active: Tensor
    fixed: Tensor | None
    gradient: Tensor | None
    """Dense, of the weight's region, where growth follows it."""

    @classmethod
    def of(cls, bundle: Bundle, active: Masks, fixed: Masks, gradients: Masks | None) -> Member:
        """Return the member of a bundle of single weights."""
        weight = bundle.parts[0].weight
        device = weight.parameter.device

        def flat(tensors: Masks) -> Tensor | None:
            found = tensors.get(weight.name)
            return None if found is None else weight.cube(found).reshape(-1).to(device)

        now, kept = flat(active), flat(fixed)
        if now is None:
            now = torch.ones(bundle.count, dtype=torch.bool, device=device)
        return cls(bundle, now, None if kept is None else ~kept, flat(gradients or {}))

    @property
    def name(self) -> str:
        """The name of the tensor."""
        return self.bundle.parts[0].weight.name

    @property
    def zeros(self) -> int:
        """How many weights are masked."""
        return self.active.numel() - int(torch.count_nonzero(self.active))

    @property
    def never(self) -> int:
        """How many of them may not grow."""
        return 0 if self.fixed is None else int(torch.count_nonzero(self.fixed))

    def smallest_first(self) -> Contender:
        """Return a contender in which what is masked goes first, then the smallest weights."""
        gone = None if bool(self.active.all()) else ~self.active
        return of_weights(self.bundle, Magnitude(), Unstructured(), None, gone)

    def best_last(self, kept: Tensor, lot: Lot | None) -> Contender:
        """Return a contender in which what is kept never goes, and what may not grow goes first."""
        blocked = self.active & ~kept  # what was just dropped
        if self.fixed is not None:
            blocked |= self.fixed
        gradient, name = self.gradient, self.name

        def read(start: int, stop: int, step: int) -> Tensor:
            part = slice(start, stop, step)
            if lot is not None:
                scores = lot.score(name, start, len(range(start, stop, step)), step, kept.device)
            elif gradient is None:  # nothing came back to this tensor in this step
                scores = torch.zeros(len(range(start, stop, step)), device=kept.device)
            else:
                scores = gradient[part].abs()
                check_scores(f"the gradient of {name}", scores)
            return scores.masked_fill(kept[part], torch.inf).masked_fill_(blocked[part], -torch.inf)

        dtype = torch.float32 if lot is not None or gradient is None else gradient.dtype
        return Contender(name, kept.numel(), 1, dtype, kept.device, read, protected=True)


@torch.no_grad()
def exchange(
    members: Sequence[Member], sparsity: float, bounds: tuple[float, float], fraction: float, lot: Lot | None
) -> dict[str, Tensor]:
    """Return the new masks, by name, of tensors that share the budget of `sparsity`.

    The smallest weights are dropped, `fraction` of what shall be there more than the budget asks for, and that many
    others grow: where the dense gradient is largest, or by `lot`. What was just dropped, or may never grow, does not.
    Where fewer may grow, fewer are exchanged; the budget is met exactly either way. Ties go by index, as everywhere.
    Raises ScoreError for gradients that are not finite.
    """
    elements = sum(member.active.numel() for member in members)
    zeros, never = sum(member.zeros for member in members), sum(member.never for member in members)
    wanted = max(budget(sparsity, elements), never)
    blind = lot is None and all(member.gradient is None for member in members)
    most = sum(math.floor(bounds[1] * member.active.numel() + 1e-9) for member in members)
    swapped = 0 if blind else max(min(budget(fraction, elements - wanted), zeros - never, most - wanted), 0)
    beyond = max(zeros, wanted + swapped)
    kept = select_bounded([member.smallest_first() for member in members], beyond, *bounds)
    if beyond > wanted and not blind:
        pairs = zip(members, kept, strict=True)
        kept = select_bounded([member.best_last(own, lot) for member, own in pairs], wanted, *bounds)
    return {member.name: spread(member.bundle.parts[0], mask) for member, mask in zip(members, kept, strict=True)}
