"""A `prune` with learned scores at work: their gradients, their optimizer, the masks of a budget (hard movement)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsify.criteria.learned import Learned
from sparsify.errors import PlanError
from sparsify.masking.learned import Scores
from sparsify.modifiers.base import Session
from sparsify.modifiers.prune_run import PruneRun
from sparsify.optimizers import minimising

if TYPE_CHECKING:
    from sparsify.modifiers.prune_plan import PrunePlan


class LearnedRun(PruneRun):
    """Learns scores from the beginning of its stage to the end of its window."""

    def __init__(self, plan: PrunePlan, session: Session) -> None:
        super().__init__(plan, session)
        minimising(session.optimizer, plan.key)
        assert isinstance(plan.spec.criterion, Learned)
        self.criterion = plan.spec.criterion
        self.scores: dict[str, Scores] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.group = _group_of(session.optimizer, plan)
        self.initial = 0.0
        """The user's learning rate at the beginning of its schedule."""
        self.factor = 1.0
        """The user's learning rate ÷ `initial`, of the step that is under way."""

    def _begin(self) -> None:
        super()._begin()
        self.scores = {bundle.name: Scores(bundle, self.criterion) for bundle in self.competition.bundles}
        self.optimizer = self._optimizer([scores.values for scores in self.scores.values()])
        group = self.session.optimizer.param_groups[self.group]
        self.initial = float(group.get("initial_lr", group["lr"]))

    def _optimizer(self, values: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer without weight decay, fused where that is possible."""
        rate = self.criterion.learning_rate
        if self.criterion.optimizer == "sgd":
            return torch.optim.SGD(values, lr=rate, momentum=0.0, weight_decay=0.0)
        fused = all(value.device.type in ("cpu", "cuda") and value.numel() for value in values)
        return torch.optim.Adam(values, lr=rate, weight_decay=0.0, fused=fused)

    def _settle(self) -> None:
        super()._settle()
        self.scores, self.optimizer = {}, None

    def observe(self) -> None:
        if not self.alive:
            return
        now = float(self.session.optimizer.param_groups[self.group]["lr"])
        self.factor = now / self.initial if self.criterion.follow and self.initial > 0 else 1.0
        latent = {part.name: self.masks.latent(part.name).tensor for part in self.plan.weights}
        for name, scores in self.scores.items():
            scores.pull(latent, self._slopes(name))

    def _slopes(self, bundle: str) -> Tensor | None:
        """Return the derivatives of the gates of this step by the scores, of tiles; None where they count as 1."""
        return None

    def penalise(self) -> None:
        if self.alive and self.criterion.max_norm is not None:
            nn.utils.clip_grad_norm_([scores.values for scores in self.scores.values()], self.criterion.max_norm)

    def commit(self, step: int) -> None:
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.criterion.learning_rate * self.factor
        self.optimizer.step()
        self._forget()

    def rollback(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Drop the gradients of the step that is over."""
        for scores in self.scores.values():
            scores.values.grad = None

    def learned(self) -> dict[str, Tensor]:
        """Return the scores as they are now, as selection reads them."""
        return {name: scores.values.detach() for name, scores in self.scores.items()}

    def _ranked(self, step: int) -> dict[str, Tensor]:
        return self.competition.masks(lambda arena: self._wanted(arena, step), None, self.learned())

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.optimizer is not None:
            state["scores"] = self.learned()
            state["optimizer"] = self.optimizer.state_dict()
            state["initial"] = self.initial
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.optimizer is None:
            return
        for name, scores in self.scores.items():
            scores.values.copy_(state["scores"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.initial = float(state["initial"])


def _group_of(optimizer: torch.optim.Optimizer, plan: PrunePlan) -> int:
    """Return which group of the user's optimizer holds the first of our weights. Raises PlanError for one in none."""
    groups = {
        id(parameter): index for index, group in enumerate(optimizer.param_groups) for parameter in group["params"]
    }
    for weight in plan.weights:
        if id(weight.parameter) not in groups:
            raise PlanError(f"{plan.key}: the optimizer does not train {weight.name}, so its scores cannot be learned")
    return groups[id(plan.weights[0].parameter)]
