"""`fill`: keep only the structure of a mask, and let what lies in it grow back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor

from sparsify.durations import Duration
from sparsify.layers import Weight, shared_rows
from sparsify.masking import count_zeros
from sparsify.masking.groups import spread
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Run, Session, Shortfall, Wanted
from sparsify.modifiers.plans import ModifierPlan, TensorPlan
from sparsify.modifiers.span import ClockError
from sparsify.modifiers.targeted import Targeted
from sparsify.schedules import Window
from sparsify.schedules.window import StepWindow
from sparsify.state_reader import StateReader
from sparsify.structure.units import Block, living, matrices

SPREAD = 0.01
"""Of the noise that weights begin with, times the matrix's standard deviation; as published."""


class Fill(Targeted):
    """Coarsens the masks of earlier modifiers to dead heads and dead neurons; everything in living ones may grow again.

    A head is dead where all its value rows or all its output columns are pruned, a neuron where its row of up (or gate)
    or its column of down is; what is dead is pruned whole, with its biases. (A head whose query or key is empty attends
    evenly: it lives.) By default it happens at once when the stage begins.
    Source: Lagunas et al., "Block Pruning For Faster Transformers" (2021), §4.2 ("hybrid filled").
    """

    type: Literal["fill"] = "fill"

    begin: Duration = Duration(0)
    """When, counted from the beginning of the stage."""

    start: Literal["zero", "noise"] = "zero"
    """What grows back begins at zero, which leaves the model's function as it is, or (as published) at the mean of its
    matrix with a little noise."""

    def explain(self) -> list[str]:
        return [
            "Keeps dead heads and dead neurons pruned, and lets everything else that was pruned grow back "
            f"{'from zero' if self.start == 'zero' else 'from noise'}.",
            f"When: once, {self.begin} into the stage.",
        ]

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        if found.get("returned") is None:
            return []
        return [
            f"{found['returned']:,} weights may grow again, {found['pruned']:,} of dead heads and neurons stay pruned"
        ]

    def plan(self, context: PlanContext) -> FillPlan | None:
        if context.anatomy is None or not context.layered:
            kind = type(context.model).__name__
            context.problem(f"heads and neurons of {kind} are not known: it has no layers")
            return None
        try:
            window = context.span.window(Window(begin=self.begin).model_copy(update={"end": self.begin}))
        except ClockError as error:
            context.problem(str(error), "begin")
            return None
        chosen = self.select(context, "default")
        pruned = [weight for plan in context.earlier for weight in plan.weights]
        every: list[Block] = [*context.anatomy.attentions, *context.anatomy.feed_forwards]
        blocks = [block for block in every if _touches(block, chosen) and _touches(block, pruned)]
        if not blocks:
            context.problem("no modifier before prunes what is targeted: there is nothing to fill", "targets")
            return None
        if frozen := [w.name for w in _wholes(blocks) if not w.parameter.requires_grad]:
            context.problem(f"{frozen[0]} is frozen, so that nothing can grow back in it", "targets")
            return None
        chosen = [weight for block in blocks for weight in matrices(block)]
        return FillPlan(
            key=context.key,
            type=self.type,
            window=StepWindow(window.begin, window.begin, 1),
            stage=context.span,
            tensors=tuple(TensorPlan.unknown(weight) for weight in chosen),
            nonzeros=None,
            facts={"start": self.start},
            weights=tuple(chosen),
            followers=_wholes(blocks),
            blocks=tuple(blocks),
            spec=self,
            unknown="dead heads, neurons",
        )

    def make_run(self, plan: Any, session: Session) -> FillRun:
        return FillRun(plan, session)


@dataclass(frozen=True, kw_only=True)
class FillPlan(ModifierPlan):
    """A `fill` resolved to a step and to blocks."""

    blocks: tuple[Block, ...]
    spec: Fill


class FillRun(Run):
    """Fills once."""

    plan: FillPlan

    def __init__(self, plan: FillPlan, session: Session) -> None:
        super().__init__(plan)
        self.masks = session.masks
        self.asked: dict[str, int] = {}
        """Weights pruned for good, by parameter, once it is done."""
        self.returned = 0

    def last_update(self) -> int:
        return self.plan.window.begin

    def due(self, step: int) -> bool:
        return not self.asked and step >= self.plan.window.begin

    def update(self, step: int) -> None:
        if not self.due(step):
            return
        before = {weight.name: self._mask(weight) for weight in self.plan.followers}
        after = {name: mask.clone() for name, mask in before.items()}
        for block in self.plan.blocks:
            for part, kept in living(block, lambda weight: weight.region(before[weight.parameter_name])):
                part.weight.region(after[part.weight.parameter_name]).copy_(spread(part, kept))
        for weight in self.plan.followers:
            grown = after[weight.name] & ~before[weight.name]
            self.returned += int(grown.sum())
            if self.plan.spec.start == "noise" and weight.layout != "bias":
                _start_from_noise(weight, grown)
            self.masks.set(weight, after[weight.name], self.key)
        self.asked = {name: int((~mask).sum()) for name, mask in after.items()}

    def _mask(self, weight: Weight) -> Tensor:
        """Return the mask of a whole parameter."""
        mask = self.masks.of(weight)
        return torch.ones_like(weight.parameter, dtype=torch.bool) if mask is None else mask

    def wanted(self, step: int) -> Iterator[Wanted]:
        for weight in self.plan.followers if self.asked else ():
            if weight.layout != "bias":
                yield Wanted((weight,), float(self.asked[weight.name]))

    def verify(self, *, partial: bool = False) -> list[Shortfall]:
        return [
            Shortfall(weight.name, self.asked[weight.name], found, weight.tensor.numel(), self.key)
            for weight in self.plan.followers
            if self.asked and (found := count_zeros(weight.tensor)) < self.asked[weight.name]
        ]

    def report(self) -> dict[str, Any]:
        return {"returned": self.returned, "pruned": sum(self.asked.values())} if self.asked else {}

    def state_dict(self) -> dict[str, Any]:
        return {"asked": dict(self.asked), "returned": self.returned}

    def check_state(self, state: StateReader, step: int) -> None:
        state.exactly(("asked", "returned")).integer("returned")
        asked = state.part("asked")
        if list(asked):
            for weight in self.plan.followers:
                asked.integer(weight.name, 0, weight.geometry.elements)
            asked.exactly([weight.name for weight in self.plan.followers])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = {str(name): int(count) for name, count in state["asked"].items()}
        self.returned = int(state["returned"])


def _start_from_noise(weight: Weight, grown: Tensor) -> None:
    """Let weights begin at the mean of their matrix with a little noise."""
    tensor = weight.tensor
    generator = torch.Generator().manual_seed(crc32(weight.name.encode()))
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
    tensor.copy_(torch.where(grown, tensor.mean() + SPREAD * tensor.std() * noise, tensor))


def _touches(block: Block, weights: Sequence[Weight]) -> bool:
    """Whether any of the weights lies in a block."""
    return any(shared_rows(weight, weights) for weight in matrices(block))


def _wholes(blocks: Sequence[Block]) -> tuple[Weight, ...]:
    """Return the parameters of blocks and their biases, each once."""
    parts = [weight for block in blocks for weight in matrices(block)]
    every = [*parts, *(bias for weight in parts if (bias := weight.bias()) is not None)]
    return tuple({weight.parameter_name: weight.whole for weight in every}.values())
