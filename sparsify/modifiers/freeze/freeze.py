"""`freeze`: what its targets name is not trained within a window; afterwards it is trained again."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.durations import Duration, PositiveDuration
from sparsify.layers import Weight, unsuitable
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Session
from sparsify.modifiers.freeze.run import FreezePlan, FreezeRun
from sparsify.modifiers.parameters import Parameters
from sparsify.modifiers.plans import TensorPlan
from sparsify.modifiers.span import ClockError
from sparsify.modifiers.targeted import Targeted, report
from sparsify.patterns.base import Misfit
from sparsify.schedules import Window
from sparsify.schedules.window import backwards
from sparsify.selectors import Layers, Selectors
from sparsify.spec import fail_at, gist

EVERYTHING = ("*",)


class Freeze(Targeted):
    """Keeps some parameters exactly as they are, for the whole stage or a part of it.

    Their gradients are dropped before the optimizer steps, so that neither weight decay nor momentum moves them.
    Gradients still flow through them, and `requires_grad` stays as it is. Masks act on them as on any other weight.
    """

    type: Literal["freeze"] = "freeze"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"targets": "embeddings"}, {"layers": "0-5"})

    targets: Selectors | None = None
    """Roles (`embeddings`, `task_head`, `attention`): their matrices and tables, with biases. Modules by name (glob,
    `re:`) or `type:`: every parameter in them, biases and norms too. Parameters by name. May be left out with `layers`,
    and is then everything in them."""

    exclude: Selectors | None = None
    """What is still trained although `targets` match it."""

    layers: Layers | None = None
    """Only weights in these layers, counted from 0: `3`, `0-5`, or a list; for models that have layers."""

    begin: Duration = Field(default=Duration(0), json_schema_extra={"default": "0 steps"})
    """When it begins, counted from the beginning of the stage."""

    end: PositiveDuration | None = None
    """When it ends, and what was frozen is trained again; by default with the stage."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.targets is None and self.layers is None:
            raise fail_at("Freeze", (), "nothing to freeze: name `targets`, or `layers`", None)
        for key, message in backwards(self.begin, self.end):
            raise fail_at("Freeze", (key,), message, None)
        return self

    def explain(self) -> list[str]:
        what = " and ".join(self.targets) if self.targets is not None else "everything"
        where = f" in layers {', '.join(self.layers)}" if self.layers is not None else ""
        but = f", except {' and '.join(self.exclude)}" if self.exclude is not None else ""
        return [
            f"Freezes {what}{where}{but}. ({gist(self)})",
            f"When: from {self.begin} of the stage to {self.end or 'its end'}; then it is trained again.",
        ]

    def durations(self) -> list[Duration]:
        return [duration for duration in (self.begin, self.end) if duration is not None]

    def plan(self, context: PlanContext) -> FreezePlan | None:
        chosen = self._chosen(context)
        try:
            window = context.span.window(Window(begin=self.begin, end=self.end))
        except ClockError as error:
            context.problem(str(error), *([error.key] if error.key in ("begin", "end") else []))
            return None
        if window.begin == window.end:
            context.problem("it ends when it begins, and would freeze in no step", "end" if self.end else "begin")
        if context.problems:
            return None
        return FreezePlan(
            key=context.key,
            type=self.type,
            window=window,
            stage=context.span,
            tensors=tuple(TensorPlan.unknown(weight, elements=weight.parameter.numel()) for weight in chosen),
            nonzeros=None,
            facts={"parameters": f"{sum(weight.parameter.numel() for weight in chosen):,}"},
            touches=tuple(chosen),
            unknown="frozen",
        )

    def _chosen(self, context: PlanContext) -> list[Weight]:
        """Return the parameters that are meant, all of them whole; what cannot be frozen is reported."""
        meant = self if self.targets is not None else self.model_copy(update={"targets": EVERYTHING})
        weights = meant.find(context, Parameters(context.model, context.anatomy))
        parts = {weight.parameter_name: weight.name for weight in weights if weight.span is not None}
        misfits = [
            Misfit(f"is a part of {name}, which can only be frozen as a whole: name that parameter", (part,), "targets")
            for name, part in parts.items()
        ]
        misfits += [
            Misfit(reason, (weight.name,), "targets")
            for weight in weights
            if (reason := unsuitable(weight.parameter)) is not None
        ]
        report(context, misfits)
        return weights

    def make_run(self, plan: Any, session: Session) -> FreezeRun:
        return FreezeRun(plan, session)
