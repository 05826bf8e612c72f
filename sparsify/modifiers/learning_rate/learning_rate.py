"""`learning_rate`: the optimizers' learning rates over a window, in place of their own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.durations import Duration, PositiveDuration
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Modifier, Session
from sparsify.modifiers.learning_rate.run import LearningRatePlan, LearningRateRun
from sparsify.modifiers.learning_rate.schedule import CURVES, Schedule
from sparsify.modifiers.span import ClockError
from sparsify.schedules import Window
from sparsify.schedules.window import StepWindow, backwards
from sparsify.spec import fail_at, gist, integral

Multiple = Annotated[float, Field(ge=0, le=1e6)]


class LearningRate(Modifier):
    """Sets the learning rate of every step of its window: warm-up, a curve, restarts.

    `from` and `to` are multiples of the learning rate that each parameter group began with. The optimizer has them only
    while it steps: your scheduler never sees them, and sets the rates again after the window.
    Sources: Loshchilov & Hutter, "SGDR" (2017); Kurtic & Alistarh, "GMP★" (2022), for restarts while pruning.
    """

    type: Literal["learning_rate"] = "learning_rate"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"warmup": "10%", "curve": "cosine", "cycles": 2, "to": 0.1},)

    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """What a multiple of 1 is for the optimizer's first parameter group (`8e-5`); the others keep their ratios to it.
    Left out: the learning rate that each group began with."""

    warmup: Duration = Field(default=Duration(0), json_schema_extra={"default": "0 steps"})
    """How long it rises evenly to `from` first, from the beginning of the window on."""

    curve: Literal["linear", "cosine", "constant"] = "linear"
    """The shape between `from` and `to`; `constant` stays at `from`."""

    from_: Multiple = Field(default=1.0, alias="from")
    """The multiple after the warm-up, and after every restart."""

    to: Multiple | None = None
    """The multiple at the end of the window, and before every restart; 0 unless written."""

    cycles: Annotated[int, Field(ge=1, le=10**6), integral] = 1
    """How often the curve is repeated, in equal parts of the window after the warm-up."""

    begin: Duration = Field(default=Duration(0), json_schema_extra={"default": "0 steps"})
    """When it begins, counted from the beginning of the stage."""

    end: PositiveDuration | None = None
    """When it ends, and your own learning rate is used again; by default with the stage."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.curve == "constant":
            for key, written in (("to", self.to is not None), ("cycles", self.cycles > 1)):
                if written:
                    raise fail_at(
                        "LearningRate", (key,), f"the curve 'constant' stays at `from`: leave `{key}` out", None
                    )
        for key, message in backwards(self.begin, self.end):
            raise fail_at("LearningRate", (key,), message, None)
        return self

    def explain(self) -> list[str]:
        base = "of each group's own" if self.rate is None else f"of {self.rate:g}"
        last = "" if self.curve == "constant" else f" to {self.to or 0:g}"
        again = f", {self.cycles} times" if self.cycles > 1 else ""
        warm = f", after a warm-up of {self.warmup}" if self.warmup.amount else ""
        return [
            f"{gist(self)}",
            f"It goes from {self.from_:g}{last} times that {base}, {self.curve}{again}{warm}.",
            f"When: from {self.begin} of the stage to {self.end or 'its end'}; then your own rules again.",
        ]

    def durations(self) -> list[Duration]:
        return [duration for duration in (self.begin, self.end, self.warmup) if duration is not None]

    def plan(self, context: PlanContext) -> LearningRatePlan | None:
        try:
            window = context.span.window(Window(begin=self.begin, end=self.end))
            warm = context.span.steps(self.warmup, "warmup")
        except ClockError as error:
            context.problem(str(error), *([error.key] if error.key in ("begin", "end", "warmup") else []))
            return None
        self._check(context, window, warm)
        if context.problems:
            return None
        stays = self.from_ if self.curve == "constant" else self.to or 0.0
        schedule = Schedule(window, warm, self.cycles, CURVES.get(self.curve), self.from_, stays)
        return LearningRatePlan(
            key=context.key,
            type=self.type,
            window=window,
            stage=context.span,
            tensors=(),
            nonzeros=None,
            facts={
                "curve": self.curve + (f", {self.cycles} cycles" if self.cycles > 1 else ""),
                "rate": "each group's own" if self.rate is None else f"{self.rate:g}",
                "multiple": f"{self.from_:g} to {stays:g}",
                **({"warm-up": f"{warm} steps"} if warm else {}),
            },
            unknown="prunes nothing",
            schedule=schedule,
            rate=self.rate,
        )

    def _check(self, context: PlanContext, window: StepWindow, warm: int) -> None:
        """Report what does not fit into the window, and who sets the learning rate already."""
        length = window.end - window.begin
        if not length:
            context.problem("it ends when it begins, and would act in no step", "end" if self.end else "begin")
        elif warm > length:
            context.problem(f"the warm-up lasts {warm} steps, the window {length}", "warmup")
        elif self.cycles > max(length - warm, 1):
            context.problem(f"{self.cycles} cycles do not fit into {length - warm} steps", "cycles")
        for other in context.earlier:
            if isinstance(other, LearningRatePlan) and other.meets(window):
                context.problem(f"{other.key} sets the learning rate at the same time")

    def make_run(self, plan: Any, session: Session) -> LearningRateRun:
        return LearningRateRun(plan, session)
