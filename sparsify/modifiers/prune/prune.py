"""`prune`: a criterion, a pattern, a scope, a ramp and a window, on some targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator
from typing_extensions import Self

from sparsify.durations import Duration
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Session
from sparsify.modifiers.prune.admm import AdmmRun
from sparsify.modifiers.prune.checks import conflicts
from sparsify.modifiers.prune.fields import PruneFields
from sparsify.modifiers.prune.gated import GatedRun
from sparsify.modifiers.prune.learned import LearnedRun
from sparsify.modifiers.prune.measuring import sentences_of
from sparsify.modifiers.prune.plan import PrunePlan
from sparsify.modifiers.prune.planning import resolve
from sparsify.modifiers.prune.run import PruneRun
from sparsify.modifiers.prune.words import sentences
from sparsify.modifiers.span import Span
from sparsify.modifiers.track import Track
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

    def durations(self) -> list[Duration]:
        return [duration for duration in (self.window.begin, self.window.end) if duration is not None]

    def track(self, span: Span, most: int) -> Track:
        once = self.sparsity is None or self.sparsity.curve.once
        written = self.window.model_copy(update={"end": self.window.begin}) if once else self.window
        window, ramp = span.window(written), self.sparsity
        points = () if ramp is None else ((step, ramp.at(window.progress(step))) for step in window.sample(most))
        return Track(window, tuple(points))

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        return sentences_of(found)

    def plan(self, context: PlanContext) -> PrunePlan | None:
        return resolve(self, context)

    def make_run(self, plan: Any, session: Session) -> PruneRun:
        learned = GatedRun if self.criterion.gated else LearnedRun if self.criterion.learned else PruneRun
        return (AdmmRun if self.dense else learned)(plan, session)
