"""`prune`: a criterion, a pattern, a scope, a ramp and a window, on some targets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator
from typing_extensions import Self

from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Session
from sparsify.modifiers.prune.checks import conflicts
from sparsify.modifiers.prune.fields import PruneFields
from sparsify.modifiers.prune.gated import GatedRun
from sparsify.modifiers.prune.learned import LearnedRun
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.prune.planning import resolve
from sparsify.modifiers.prune.run import PruneRun
from sparsify.modifiers.prune.words import sentences
from sparsify.spec import fail_at


class Prune(PruneFields):
    """Set the least valuable weights to zero, gradually, and keep them there."""

    type: Literal["prune"] = "prune"

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        for key, message in conflicts(self):
            raise fail_at("Prune", (key,) if key else (), message, None)
        return self

    def explain(self) -> list[str]:
        return sentences(self)

    def plan(self, context: PlanContext) -> PrunePlan | None:
        return resolve(self, context)

    def make_run(self, plan: Any, session: Session) -> PruneRun:
        kind = GatedRun if self.criterion.gated else LearnedRun if self.criterion.learned else PruneRun
        return kind(plan, session)
