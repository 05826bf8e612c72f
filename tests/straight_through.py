"""The slow and obvious way to learn masks: straight-through autograd over copies of all weights (Sanh et al. 2020).

Every weight has the number of its group (or −1); W′ = W ⊙ (m + S − S.detach())[group] has the mask's values and the
scores' gradients. Masks come from sorting. Nothing of it is shared with sparsify.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.func import functional_call

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


@dataclass
class Group:
    """Groups of one bundle of tensors, numbered from 0, as maps from weights to groups."""

    name: str
    owners: dict[str, Tensor]
    """The group of every weight, int64, in the weight's shape; by the parameter's name."""

    runs: int = 1
    """Weights of one row that compete for N of M places: M; 1 elsewhere."""

    kept: int = 0
    """N of N:M."""

    scores: Tensor = field(init=False)
    mask: Tensor = field(init=False)

    @property
    def count(self) -> int:
        return 1 + max(int(owner.max()) for owner in self.owners.values())

    def sizes(self) -> list[int]:
        """Return how many weights every group has."""
        sizes = [0] * self.count
        for owner in self.owners.values():
            for index in owner.flatten().tolist():
                sizes[index] += 1
        return sizes

    def magnitudes(self, weights: dict[str, Tensor]) -> Tensor:
        """Return each group's mean |w|."""
        total = torch.zeros(self.count, dtype=torch.float64)
        for name, owner in self.owners.items():
            total.index_add_(0, owner.flatten(), weights[name].detach().abs().flatten())
        return total / torch.tensor(self.sizes())


class Reference:
    """A training with learned masks."""

    def __init__(
        self,
        model: nn.Module,
        groups: list[Group],
        *,
        method: str,
        together: bool,
        start: Callable[[Tensor], Tensor],
        learning_rate: float,
        optimizer: str = "adam",
        max_norm: float | None = None,
    ) -> None:
        self.model, self.groups, self.method, self.together = model, groups, method, together
        self.weights = dict(model.named_parameters())
        for group in groups:
            magnitude = group.magnitudes(self.weights)
            group.scores = start(magnitude / magnitude.mean()).clone().requires_grad_(True)
            group.mask = torch.ones(group.count, dtype=torch.bool)
        kind: Any = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        self.optimizer = kind([group.scores for group in groups], lr=learning_rate)
        self.rate, self.max_norm = learning_rate, max_norm

    def gates(self, group: Group, step: int) -> Tensor:
        """Return what the weights of every group are multiplied with in a step's forward."""
        if self.method == "magnitude":
            return group.mask.double()
        if self.method == "hard-concrete":
            generator = torch.Generator().manual_seed(crc32(f"0/{step}/{group.name}".encode()))
            u = torch.rand(group.count, generator=generator, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
            s = torch.sigmoid((u.log() - (1 - u).log() + group.scores) / BETA)
            return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        return group.mask.double() + group.scores - group.scores.detach()

    def shown(self, gates: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that the model computes with."""
        shown = dict(self.weights)
        for group in self.groups:
            for name, owner in group.owners.items():
                shown[name] = shown[name] * gates[group.name][owner]
        return shown

    def evaluated(self) -> dict[str, Tensor]:
        """Return the weights as an evaluation sees them."""
        gates = {}
        for group in self.groups:
            gates[group.name] = group.mask.double()
            if self.method == "hard-concrete":
                gates[group.name] = (torch.sigmoid(group.scores) * (ZETA - GAMMA) + GAMMA).clamp(0, 1) * group.mask
        return {name: value.detach() for name, value in self.shown(gates).items()}

    def step(
        self, step: int, loss_of: Callable[[Callable[..., Any]], Tensor], optimizer: Any, rate: float, clip: float | None,
        penalty: float = 0.0,
    ) -> None:  # fmt: skip
        """Make one step: one backward through the masks, the user's optimizer, the scores' optimizer.

        `loss_of` is given the model as a function of its inputs.
        """
        optimizer.zero_grad()
        self.optimizer.zero_grad()
        gates = {group.name: self.gates(group, step) for group in self.groups}
        shown = self.shown(gates)
        loss = loss_of(lambda *inputs, **named: functional_call(self.model, shown, inputs, named))
        if penalty:
            shift = BETA * math.log(-GAMMA / ZETA) if self.method == "hard-concrete" else 0.0
            means = [torch.sigmoid(group.scores - shift).mean() for group in self.groups]
            loss = loss + penalty * sum(means) / len(means)
        loss.backward()
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_([group.scores for group in self.groups], self.max_norm)
        if clip is not None:
            nn.utils.clip_grad_norm_(self.weights.values(), clip)
        optimizer.step()
        for entry in self.optimizer.param_groups:
            entry["lr"] = self.rate * rate
        self.optimizer.step()

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Prune the lowest groups until their weights reach the budget: of every tensor, or of all together."""
        arenas = [self.groups] if self.together else [[group] for group in self.groups]
        for arena in arenas:
            order: list[tuple[float, int, int, int]] = []
            elements = 0
            for number, group in enumerate(arena):
                sizes = group.sizes()
                elements += sum(sizes)
                ranked = group.magnitudes(self.weights) if self.method == "magnitude" else group.scores
                guarded = self.guarded(group, ranked)
                order += [
                    (math.inf if guarded[index] else float(ranked[index]), number, index, sizes[index])
                    for index in range(group.count)
                ]
                group.mask = torch.ones(group.count, dtype=torch.bool)
            left = round(sparsity * elements)
            for _, number, index, size in sorted(order):
                if left <= 0:
                    break
                arena[number].mask[index] = False
                left -= size

    def guarded(self, group: Group, scores: Tensor) -> list[bool]:
        """Return which weights are among the best N of their M; of equals, the later."""
        best = [False] * group.count
        if group.kept:
            for start in range(0, group.count, group.runs):
                run = sorted(range(start, start + group.runs), key=lambda index: (float(scores[index]), index))
                for index in run[-group.kept :]:
                    best[index] = True
        return best

    @torch.no_grad()
    def threshold(self, cut: float, floor: float) -> None:
        """Keep what lies above a score, and at least the best of each bundle."""
        for group in self.groups:
            least = math.ceil(floor * group.count - 1e-9)
            order = sorted(range(group.count), key=lambda index: (float(group.scores[index]), index))
            best = set(order[group.count - least :])
            guarded = self.guarded(group, group.scores)
            kept = [float(score) > cut or guarded[index] for index, score in enumerate(group.scores)]
            if sum(kept) < least:
                kept = [index in best for index in range(group.count)]
            group.mask = torch.tensor(kept)
