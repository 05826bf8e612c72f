"""A `prune` with learned scores at work: their gradients, their optimizer, the masks of a budget (hard movement)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.criteria.learned import Learned
from sparsify.masking.learned import Scores
from sparsify.modifiers.contract import Session
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.prune.rates import rates
from sparsify.modifiers.prune.run import PruneRun
from sparsify.modifiers.rate import Rate
from sparsify.optimizers import check_moments, minimising, moments, restore_moments
from sparsify.state_reader import StateReader


class LearnedRun(PruneRun):
    """Learns scores from the beginning of its stage to the end of its window."""

    def __init__(self, plan: PrunePlan, session: Session) -> None:
        super().__init__(plan, session)
        minimising(session.optimizers, plan.key)
        criterion = plan.spec.criterion
        assert isinstance(criterion, Learned)
        self.criterion: Learned = criterion
        self.scores: dict[str, Scores] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.rates: dict[str, Rate] = rates(session.optimizers, plan)
        """By bundle: which of the user's learning rates its scores follow."""

    def _hold(self) -> None:
        super()._hold()
        self.scores = {bundle.name: Scores(bundle, self.criterion) for bundle in self.competition.bundles}
        self.optimizer = self._optimizer()
        for rate in self.rates.values():
            rate.begin()

    def _optimizer(self) -> torch.optim.Optimizer:
        """Return an optimizer without weight decay, fused where that is possible; a group for each rate to follow."""
        groups: dict[int, dict[str, Any]] = {}
        for name, scores in self.scores.items():
            rate = self.rates[name]
            groups.setdefault(id(rate), {"params": [], "rate": rate})["params"].append(scores.values)
        values = [value for group in groups.values() for value in group["params"]]
        initial = self.criterion.learning_rate
        if self.criterion.optimizer == "sgd":
            return torch.optim.SGD(list(groups.values()), lr=initial, momentum=0.0, weight_decay=0.0)
        fused = all(value.device.type in ("cpu", "cuda") and value.numel() for value in values)
        return torch.optim.Adam(list(groups.values()), lr=initial, weight_decay=0.0, fused=fused)

    def _expose(self) -> None:
        """Scores are ranked, not weights."""

    def _let_go(self) -> None:
        super()._let_go()
        self.scores, self.optimizer = {}, None

    # ------------------------------------------------------------------ the step

    def needs_gradients(self, step: int) -> bool:
        return self.alive

    def observe(self, step: int) -> None:
        if not self.alive:
            return
        for rate in self.rates.values():
            rate.read(follow=self.criterion.follow)
        latent = {weight.name: self.masks.latent(weight).tensor for weight in self.plan.weights}
        for name, scores in self.scores.items():
            scores.pull(latent, self._slopes(name))

    def _slopes(self, bundle: str) -> Tensor | None:
        """Return the derivatives of the gates of this step by the scores, of tiles; None where they count as 1."""
        return None

    def penalise(self, step: int) -> None:
        if self.alive and self.criterion.max_norm is not None:
            nn.utils.clip_grad_norm_([scores.values for scores in self.scores.values()], self.criterion.max_norm)

    def commit(self, step: int, skipped: Collection[int]) -> None:
        if self.optimizer is None:
            return
        for scores in self.scores.values() if skipped else ():
            if any(id(part.weight.parameter) in skipped for part in scores.bundle.parts):
                scores.values.grad = None
        for group in self.optimizer.param_groups:
            group["lr"] = self.criterion.learning_rate * group["rate"].factor
        self.optimizer.step()
        self._drop_gradients()

    def rollback(self) -> None:
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        """The step is over."""
        for scores in self.scores.values():
            scores.values.grad = None

    # ------------------------------------------------------------------ masks

    def learned(self) -> dict[str, Tensor]:
        """Return the scores as they are now, as selection reads them."""
        return {name: scores.values.detach() for name, scores in self.scores.items()}

    def _rank(self, step: int, before: Mapping[str, Tensor]) -> None:
        self._put(self.competition.masks(lambda arena: self._wanted(arena, step), before, self.learned()))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.optimizer is not None:
            state["scores"] = self.learned()
            state["moments"] = {name: moments(self.optimizer, each.values) for name, each in self.scores.items()}
            state["initial"] = {name: rate.initial for name, rate in self.rates.items()}
        return state

    def check_state(self, state: StateReader, step: int) -> None:
        super().check_state(state, step)
        if not state.flag("alive"):
            return
        scores, initial, saved = state.part("scores"), state.part("initial"), state.part("moments")
        for bundle in self.competition.bundles:
            shape, dtype = Scores.kind(bundle)
            scores.tensor(bundle.name, shape, dtype)
            initial.number(bundle.name)
            check_moments(saved.part(bundle.name), self.criterion.optimizer, shape, dtype)
        for part in (scores.exactly, initial.exactly, saved.exactly):
            part([bundle.name for bundle in self.competition.bundles])

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.scores, self.optimizer = {}, None
        if not self.alive:
            return
        self.scores = {bundle.name: Scores(bundle, self.criterion) for bundle in self.competition.bundles}
        self.optimizer = self._optimizer()
        for name, scores in self.scores.items():
            scores.values.copy_(state["scores"][name])
            restore_moments(self.optimizer, scores.values, state["moments"][name])
            self.rates[name].initial = float(state["initial"][name])
