"""`regrow`: sparse training in which weights come and go: SET, RigL, ITOP, GraNet, AC/DC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from sparsify.durations import Duration
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Session
from sparsify.modifiers.regrow.fields import RegrowFields
from sparsify.modifiers.regrow.phases import Phases
from sparsify.modifiers.regrow.plan import RegrowPlan, resolve
from sparsify.modifiers.regrow.run import RegrowRun
from sparsify.modifiers.span import Span
from sparsify.modifiers.track import Track
from sparsify.spec import gist


class Regrow(RegrowFields):
    """Keeps weights sparse while it looks for better ones: the smallest are dropped, and as many others grow from zero.

    The count is exact at every update; a weight that was just dropped does not grow; what grows begins with moments of
    zero. Sources: Mocanu et al. (2018), SET; Evci et al., "Rigging the Lottery" (2020), RigL; Liu et al. (2021), ITOP
    and GraNet; Peste et al. (2021), AC/DC.
    """

    type: Literal["regrow"] = "regrow"
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"sparsity": 0.8, "window": {"end": "75%", "every": 100}},
        {"sparsity": 0.9, "grow": "everything", "scope": "global", "dense": "5%", "window": {"every": "10%"}},
    )

    def explain(self) -> list[str]:
        ramp, window = self.sparsity, self.window
        amount = f"{ramp.to:.1%}" if ramp.from_ == ramp.to else f"from {ramp.from_:.1%} to {ramp.to:.1%}"
        lines = [
            gist(self),
            f"How much is zero: {amount} of the targeted weights, {ramp.curve.label()}."
            if ramp.from_ != ramp.to
            else f"How much is zero: {amount} of the targeted weights, during the whole window.",
            f"Budget: {self.scope.label()} ({gist(self.scope)})",
            f"When: from {window.begin} of the stage to {window.end or 'its end'}; the masks stay afterwards.",
        ]
        if self.grow == "everything":
            lines.append(
                f"In every {window.every} the last {self.dense} are dense: nothing is masked, and nothing is zero."
            )
            return lines
        where = "the dense gradient is largest" if self.grow == "gradient" else "the lot falls"
        fraction = f"{self.fraction.from_:.0%} of them at first, {self.fraction.to:.0%} in the end"
        lines.append(
            f"Every {window.every} the smallest weights are exchanged ({fraction}); others grow where {where}."
        )
        return lines

    def durations(self) -> list[Duration]:
        window = self.window
        return [duration for duration in (window.begin, window.end) if duration is not None]

    def track(self, span: Span, most: int) -> Track:
        window, ramp = span.window(self.window), self.sparsity
        if self.dense is None:
            return Track(window, tuple((step, ramp.at(window.progress(step))) for step in window.sample(most)))
        changes = Phases(window, span.steps(self.dense, "dense")).changes(most)
        points = ((step, 0.0 if phase == "dense" else ramp.at(window.progress(step))) for step, phase in changes)
        return Track(window, tuple(points))

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        regrown = found.get("regrown")
        return [f"{regrown:,} times a weight grew in place of another"] if isinstance(regrown, int) else []

    def plan(self, context: PlanContext) -> RegrowPlan | None:
        return resolve(self, context)

    def make_run(self, plan: Any, session: Session) -> RegrowRun:
        return RegrowRun(plan, session)
