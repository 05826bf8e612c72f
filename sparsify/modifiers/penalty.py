"""`penalty`: a group lasso, or plain l1 or l2, on the weights themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparsify.layers import Weight
from sparsify.masking.groups import reduced, spread
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Run, Session
from sparsify.modifiers.plans import ModifierPlan, TensorPlan
from sparsify.modifiers.span import ClockError
from sparsify.modifiers.targeted import Targeted, whole_gradients
from sparsify.optimizers import minimising
from sparsify.patterns import Pattern
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.unstructured import Unstructured
from sparsify.schedules import Level, Window
from sparsify.spec import gist


class WeightPenalty(Targeted):
    """Adds the gradient of a penalty on the weights, before masks and clipping; prunes nothing by itself.

    Sources: Yuan & Lin, "Model selection and estimation in regression with grouped variables" (2006); Wen et al.,
    "Learning Structured Sparsity in Deep Neural Networks" (2016).
    """

    type: Literal["penalty"] = "penalty"

    pattern: Pattern = Unstructured()
    """What a group is, for the group lasso."""

    norm: Literal["group-lasso", "l1", "l2"] = "group-lasso"
    """`group-lasso`: λ·Σ √n·‖W_g‖₂, n the group's size; `l1`: λ·Σ |w|; `l2`: ½·λ·Σ w². 0 is its gradient at 0."""

    strength: Level
    """λ over the window, and on to the end of the training."""

    window: Window = Window()
    """When λ rises (or falls)."""

    def explain(self) -> list[str]:
        end = f"{self.window.end}" if self.window.end is not None else "its end"
        return [
            f"Penalises weights by {self.norm} ({gist(self)})",
            f"λ goes from {self.strength.from_:g} to {self.strength.to:g}, {self.strength.curve.label()}.",
            f"When: from {self.window.begin} of the stage to {end}; λ stays afterwards.",
        ]

    def unfit(self, weight: Weight) -> str | None:
        if not weight.parameter.requires_grad:
            return "is frozen, so that a penalty does nothing to it"
        return whole_gradients(weight)

    def plan(self, context: PlanContext) -> PenaltyPlan | None:
        before = len(context.problems)
        bundles = self.cut(context, self.select(context, self.pattern.role), self.pattern)
        try:
            window = context.span.window(self.window)
        except ClockError as error:
            context.problem(str(error), "window", *([error.key] if error.key else []))
            return None
        if len(context.problems) > before:
            return None
        return PenaltyPlan(
            key=context.key,
            type=self.type,
            window=window,
            stage=context.span,
            tensors=tuple(
                TensorPlan.unknown(bundle.parts[0].weight, bundle.name, elements=bundle.elements, groups=bundle.count)
                for bundle in bundles
            ),
            nonzeros=None,
            facts={"norm": self.norm, "pattern": self.pattern.label(), "strength": f"{self.strength.to:g}"},
            spec=self,
            bundles=tuple(bundles),
            touches=tuple(part.weight for bundle in bundles for part in bundle.parts),
            unknown="prunes nothing",
        )

    def make_run(self, plan: Any, session: Session) -> PenaltyRun:
        minimising(session.optimizers, plan.key)
        return PenaltyRun(plan)


@dataclass(frozen=True, kw_only=True)
class PenaltyPlan(ModifierPlan):
    """A `penalty` resolved to steps and groups. It has no `weights`: it masks nothing."""

    spec: WeightPenalty
    bundles: tuple[Bundle, ...]


class PenaltyRun(Run):
    """Adds to the gradients at every step of and after the window."""

    plan: PenaltyPlan

    def needs_gradients(self, step: int) -> bool:
        return self._strength(step) > 0

    @torch.no_grad()
    def penalise(self, step: int) -> None:
        strength = self._strength(step)
        for bundle in self.plan.bundles if strength else ():
            _push(bundle, self.plan.spec.norm, strength)

    def _strength(self, step: int) -> float:
        window = self.plan.window
        return self.plan.spec.strength.at(window.progress(step)) if step >= window.begin else 0.0


def _push(bundle: Bundle, norm: str, strength: float) -> None:
    """Add the gradient of the penalty of one bundle to those that the weights have; one that has none gets none."""
    factors = _factors(bundle).mul_(strength) if norm == "group-lasso" else None
    for part in bundle.parts:
        weight, whole = part.weight.tensor, part.weight.parameter.grad
        if whole is None:
            continue
        gradient = part.weight.region(whole)
        if factors is not None:
            gradient.addcmul_(weight, spread(part, factors).to(weight.dtype))
        else:
            gradient.add_(weight.sign() if norm == "l1" else weight, alpha=strength)


def _factors(bundle: Bundle) -> Tensor:
    """Return √n ÷ ‖W_g‖₂ of every tile, 0 where the norm is 0; 1-D, in at least float32."""
    squares: Tensor | None = None
    for part in bundle.parts:
        mine = reduced(part, "l2", part.rows)
        squares = mine if squares is None else squares.add_(mine.to(squares.device))
    assert squares is not None
    norms, sizes = squares.sqrt(), bundle.sizes
    roots = math.sqrt(bundle.size // bundle.quota) if sizes is None else sizes.to(norms).sqrt()
    return torch.where(norms > 0, roots / norms, torch.zeros_like(norms))
