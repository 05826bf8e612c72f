"""`layer_drop`: whole layers are removed before the training; what is left is an ordinary smaller model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Modifier, Needed, Run, Session
from sparsify.modifiers.layer_drop.choosing import choose
from sparsify.modifiers.layer_drop.keep import Keep
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.structural import StructureContext
from sparsify.schedules.window import StepWindow
from sparsify.spec import gist
from sparsify.structure.change import Change, Dropped
from sparsify.structure.drop import drop


class LayerDrop(Modifier):
    """Removes whole layers before the training; the layers that stay are numbered anew, from 0.

    It stands in the first stage. Everywhere else in the recipe, `layers` are the new numbers; only those of `distill`
    are the original ones, by which a teacher's layers are found. Sources: Sajjad et al., "On the Effect of Dropping
    Layers of Pre-trained Transformer Models" (2020); Men et al., "ShortGPT" (2024) for `block-influence`; Gromov et
    al., "The Unreasonable Ineffectiveness of the Deeper Layers" (2024) for `angular`.
    """

    type: Literal["layer_drop"] = "layer_drop"

    examples = (
        {"keep": [0]},
        {"keep": {"count": 1, "rule": "every-other"}},
    )

    keep: Keep
    """The layers that stay: their numbers, or how many and by which rule."""

    stack: str | None = None
    """Which stack of layers, where a model has several: `encoder`, `decoder`, or the whole name."""

    def explain(self) -> list[str]:
        where = f" of the {self.stack}" if self.stack else ""
        lines = [gist(self), f"What stays{where}: {self.keep.label()}."]
        if self.keep.measured:
            lines.append(f"Measured on {self.keep.data!r} before the training, on {self.keep.compared} tokens.")
        return [*lines, "When: before the training."]

    def bindings(self) -> dict[str, Needed]:
        return {self.keep.data: Needed("data to choose layers on: batches of inputs")} if self.keep.measured else {}

    def restructures(self) -> bool:
        return True

    def choose(self, model: nn.Module, context: StructureContext) -> Change | None:
        return choose(self.keep, self.stack, model, context)

    def restructure(self, model: nn.Module, change: Change) -> list[nn.Parameter]:
        assert isinstance(change, Dropped)
        return drop(model, change)

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        kept = found.get("kept")
        if not isinstance(kept, list):
            return []
        sentence = f"{len(kept)} of {found.get('layers')} layers are left: {', '.join(map(str, kept))}"
        return [f"{sentence}; {found.get('parameters', 0):,} parameters are gone"]

    def plan(self, context: PlanContext) -> LayerDropPlan | None:
        change = context.changes.get(context.key)
        if not isinstance(change, Dropped):
            return None  # what is wrong was reported when it was decided
        if not change.removed and change.chosen:
            context.notes.append(f"{context.key}: all {change.layers} layers of {change.stack} stay")
        return LayerDropPlan(
            key=context.key,
            type=self.type,
            window=StepWindow(0, 0, 1),
            stage=context.span,
            tensors=(),
            nonzeros=None,
            facts={"stack": change.stack, "keeps": str(change), "removes": f"{change.parameters:,} parameters"},
            unknown="prunes nothing",
            when="before the training",
            change=change,
        )

    def make_run(self, plan: Any, session: Session) -> LayerDropRun:
        return LayerDropRun(plan)


@dataclass(frozen=True, kw_only=True)
class LayerDropPlan(ModifierPlan):
    """A `layer_drop` resolved to layers. It has no `weights`: it masks nothing."""

    change: Dropped


class LayerDropRun(Run):
    """Has nothing left to do when the training begins."""

    plan: LayerDropPlan

    def report(self) -> dict[str, Any]:
        return self.plan.change.to_dict()
