"""`distill`: the student is trained towards what a teacher makes of the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Needed, Session
from sparsify.modifiers.distill.fields import CACHE, SELF, DistillFields
from sparsify.modifiers.distill.plan import DistillPlan
from sparsify.modifiers.distill.planning import plan_of, words
from sparsify.modifiers.distill.run import DistillRun
from sparsify.modifiers.distill.teacher import frozen_copy
from sparsify.spec import gist


class Distill(DistillFields):
    """Adds to the loss how far the model is from a teacher on the same inputs; prunes nothing by itself.

    The loop hands its loss to `on_loss`, or an integration does. Sources: Hinton et al., "Distilling the Knowledge in a
    Neural Network" (2015); Sanh et al., "Movement Pruning" (2020), §5.
    """

    type: Literal["distill"] = "distill"

    examples = (
        {"logits": {"temperature": 2.0}, "hardness": 0.9},
        {"hidden": {"loss": "squarehead"}, "teacher": "self"},
        {"logits": {}, "teacher": "self", "cache": {}},
    )

    def explain(self) -> list[str]:
        who = "the model as it was before" if self.teacher == SELF else f"the model that is bound to {self.teacher!r}"
        what = ", ".join(f"{each.term.type} ({words(each.term)})" for each in self.named())
        hardness = self.hardness.label() if self.hardness is not None else None
        loss = "task + distillation" if hardness is None else f"(1 − h) · task + h · distillation, h {hardness}"
        return [
            f"Distils from {who} ({gist(self)})",
            f"Terms: {what}.",
            f"Loss: {loss}.",
            *(["The teacher is asked about each sample once; its answers are kept."] if self.cache is not None else []),
            f"When: from {self.begin} of the stage to {self.end or 'its end'}.",
        ]

    def bindings(self) -> dict[str, Needed]:
        found = {}
        if self.teacher != SELF:
            found[self.teacher] = Needed("the teacher: a module, a folder, or the name of a model")
        if self.cache is not None:
            found[CACHE] = Needed("a folder in which the teacher's answers are kept from run to run", required=False)
        return found

    def changes_loss(self) -> bool:
        return True

    def snapshot(self, model: nn.Module) -> nn.Module | None:
        return frozen_copy(model) if self.teacher == SELF else None

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        terms = found.get("distilled")
        if not isinstance(terms, Mapping):
            return []
        means = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if isinstance(value, (int, float)))
        sentences = [f"{found.get('losses', 0):,} losses with distillation; means of the terms: {means}"]
        cache = found.get("cache")
        if isinstance(cache, Mapping):
            misses, hits = cache.get("misses", 0), cache.get("hits", 0)
            sentences.append(f"the teacher was asked about {misses:,} samples; {hits:,} were found in the cache")
        return sentences

    def plan(self, context: PlanContext) -> DistillPlan | None:
        return plan_of(self, context)

    def make_run(self, plan: Any, session: Session) -> DistillRun:
        return DistillRun(plan, session)
