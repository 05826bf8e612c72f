"""`fill`: keep only the structure of a mask, and let what lies in it grow back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor

from sparsify.anatomy import Attention, FeedForward
from sparsify.durations import Duration
from sparsify.layers import Weight, shared_rows
from sparsify.masking import count_zeros
from sparsify.masking.groups import spread
from sparsify.masking.store import MaskStore
from sparsify.modifiers.base import ModifierPlan, PlanContext, Run, Session, Shortfall, TensorPlan
from sparsify.modifiers.clock import ClockError
from sparsify.modifiers.targeted import Targeted
from sparsify.patterns.bundle import Part
from sparsify.patterns.spanning import across, along
from sparsify.schedules import Window
from sparsify.schedules.window import StepWindow

Block = Attention | FeedForward
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

    def plan(self, context: PlanContext) -> FillPlan | None:
        if context.anatomy is None:
            kind = type(context.model).__name__
            context.problem(f"heads and neurons of {kind} are not known: its architecture is not")
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
        matrices = [weight for block in blocks for weight in _matrices(block)]
        return FillPlan(
            key=context.key,
            type=self.type,
            window=StepWindow(window.begin, window.begin, 1),
            tensors=tuple(_tensor(weight) for weight in matrices),
            nonzeros=None,
            facts={"start": self.start},
            weights=tuple(matrices),
            followers=_wholes(blocks),
            blocks=tuple(blocks),
            spec=self,
        )


@dataclass(frozen=True, kw_only=True)
class FillPlan(ModifierPlan):
    """A `fill` resolved to a step and to blocks."""

    blocks: tuple[Block, ...]
    spec: Fill

    def unknown(self) -> str:
        return "dead heads, neurons"

    def start(self, session: Session) -> FillRun:
        return FillRun(self, session)


class FillRun(Run):
    """Fills once."""

    def __init__(self, plan: FillPlan, session: Session) -> None:
        super().__init__(plan)
        self.plan = plan
        self.masks = session.masks
        self.asked: dict[str, int] = {}
        """Weights pruned for good, by parameter, once it is done."""
        self.returned = 0

    def last_update(self) -> int:
        return self.plan.window.begin

    def update(self, step: int) -> bool:
        if self.asked or step < self.plan.window.begin:
            return False
        before = {weight.name: _mask(weight, self.masks) for weight in self.plan.followers}
        after = {name: mask.clone() for name, mask in before.items()}
        for block in self.plan.blocks:
            coarsen(block, lambda weight: weight.region(before[weight.parameter_name]), after)
        for weight in self.plan.followers:
            grown = after[weight.name] & ~before[weight.name]
            self.returned += int(grown.sum())
            if self.plan.spec.start == "noise" and weight.layout != "bias":
                _sow(weight, grown)
            self.masks.replace(weight, after[weight.name], self.key)
            self.asked[weight.name] = int((~after[weight.name]).sum())
        return True

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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = {str(name): int(count) for name, count in state["asked"].items()}
        self.returned = int(state["returned"])


def _mask(weight: Weight, masks: MaskStore) -> Tensor:
    """Return the mask of a whole parameter, from the masks of its parts."""
    whole = torch.ones_like(weight.parameter, dtype=torch.bool)
    for _, part, mask in masks:
        if part.parameter_name == weight.parameter_name:
            part.region(whole).copy_(mask)
    return whole


def coarsen(block: Block, mask: Callable[[Weight], Tensor], after: Mapping[str, Tensor]) -> None:
    """Write the masks of living heads or neurons into `after`, by parameter; `mask` says what was kept of a weight."""
    if isinstance(block, Attention):
        columns = _units(block.output, mask, block.heads, columns=True)
        values = _units(block.value, mask, block.groups)
        queries = columns & values.repeat_interleave(block.heads // block.groups)
        groups = queries.view(block.groups, -1).any(1)
        rows = {block.query: queries, block.key: groups, block.value: groups}
        down, living = block.output, queries
    else:
        ups = [block.up] if block.gate is None else [block.up, block.gate]
        width = block.up.geometry.rows
        living = _units(block.down, mask, width, columns=True)
        for up in ups:
            living = living & _units(up, mask, width)
        rows, down = dict.fromkeys(ups, living), block.down
    for weight, kept in rows.items():
        bias = weight.bias()
        for part in (weight,) if bias is None else (weight, bias):
            _write(along(part, kept.numel()), kept, after)
    _write(across(down, living.numel()), living, after)


def _units(weight: Weight, mask: Callable[[Weight], Tensor], units: int, *, columns: bool = False) -> Tensor:
    """Return which of the equal runs of rows (or columns) of a matrix have something left; bool, 1-D."""
    cube = weight.cube(mask(weight)).flatten(1)
    lines = cube.any(0) if columns else cube.any(1)
    return lines.view(units, -1).any(1)


def _write(part: Part, kept: Tensor, after: Mapping[str, Tensor]) -> None:
    region = part.weight.region(after[part.weight.parameter_name])
    region.copy_(spread(part, kept))


def _sow(weight: Weight, grown: Tensor) -> None:
    """Let weights begin at the mean of their matrix with a little noise."""
    tensor = weight.tensor
    generator = torch.Generator().manual_seed(crc32(weight.name.encode()))
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
    tensor.copy_(torch.where(grown, tensor.mean() + SPREAD * tensor.std() * noise, tensor))


def _touches(block: Block, weights: Sequence[Weight]) -> bool:
    """Whether any of the weights lies in a block."""
    return any(shared_rows(weight, weights) for weight in _matrices(block))


def _matrices(block: Block) -> list[Weight]:
    return [weight for _, weight in block.roles()]


def _wholes(blocks: Sequence[Block]) -> tuple[Weight, ...]:
    """Return the parameters of blocks and their biases, each once."""
    parts = [weight for block in blocks for weight in _matrices(block)]
    every = [*parts, *(bias for weight in parts if (bias := weight.bias()) is not None)]
    wholes = {weight.parameter_name: replace(weight, name=weight.parameter_name, span=None) for weight in every}
    return tuple(wholes.values())


def _tensor(weight: Weight) -> TensorPlan:
    dtype = str(weight.parameter.dtype).removeprefix("torch.")
    elements = weight.geometry.elements
    return TensorPlan(weight.name, weight.shape, dtype, elements, None, None, weight.name, 1)
