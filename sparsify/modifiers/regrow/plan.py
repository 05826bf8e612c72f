"""From a `regrow` in a recipe, a model and a stage to its plan."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify.criteria.magnitude import Magnitude
from sparsify.criteria.random import Random
from sparsify.masking import Competition
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.expected import expect
from sparsify.modifiers.plans import ModifierPlan
from sparsify.modifiers.regrow.fields import RegrowFields
from sparsify.modifiers.regrow.phases import Phases
from sparsify.modifiers.span import ClockError
from sparsify.modifiers.targeted import report
from sparsify.patterns.base import Misfit
from sparsify.patterns.unstructured import Unstructured
from sparsify.schedules.window import StepWindow


@dataclass(frozen=True, kw_only=True)
class RegrowPlan(ModifierPlan):
    """A `regrow` resolved to steps and tensors."""

    spec: RegrowFields
    competition: Competition
    """Of whole masks: the first, and those of compressed phases."""

    phases: Phases | None = None


def resolve(spec: RegrowFields, context: PlanContext) -> RegrowPlan | None:
    """Return the plan, or None after reporting what does not fit."""
    before = len(context.problems)
    try:
        window = context.span.window(spec.window)
        dense = context.span.steps(spec.dense, "dense") if spec.dense is not None else None
    except ClockError as error:
        context.problem(str(error), *(["window"] if error.key != "dense" else []), *([error.key] if error.key else []))
        return None
    phases = None if dense is None else Phases(window, dense)
    _check(spec, context, window, phases)
    pattern = Unstructured()
    bundles = spec.cut(context, spec.select(context, pattern.role), pattern)
    if spec.scope.needs_anatomy() and not context.layered:
        report(
            context,
            [
                Misfit(
                    f"{spec.scope.needs_anatomy()} needs a model with layers: nothing repeats in this one", key="scope"
                )
            ],
        )
    if len(context.problems) > before:
        return None
    criterion = Random(seed=spec.seed) if spec.start == "random" else Magnitude()
    competition = Competition.of(bundles, criterion, pattern, spec.scope, context.anatomy)
    ramp = spec.sparsity
    if reason := competition.impossible(ramp.to):
        context.problem(reason, "sparsity")
        return None
    if phases is None and _has_floors(competition, ramp.to):
        context.problem(
            "tensors that exchange weights with each other cannot keep a floor: leave it out, or write `scope: erk`",
            "scope",
        )
        return None
    tensors, nonzeros = expect(competition, ramp.to)
    weights = tuple(part.weight for bundle in bundles for part in bundle.parts)
    return RegrowPlan(
        key=context.key,
        type=spec.type,
        window=window,
        stage=context.span,
        tensors=tensors,
        nonzeros=nonzeros,
        facts={
            "grow": spec.grow,
            **({"fraction": f"{spec.fraction.from_:g} to {spec.fraction.to:g}"} if phases is None else {}),
            **({"dense": f"{phases.dense} of {window.every} steps"} if phases is not None else {}),
            "scope": spec.scope.label(),
            "curve": "constant" if ramp.from_ == ramp.to else ramp.curve.label(),
        },
        weights=weights,
        touches=weights if spec.grow == "gradient" else (),
        starts=ramp.at(0.0),
        reaches=ramp.to,
        spec=spec,
        competition=competition,
        phases=phases,
    )


def _has_floors(competition: Competition, sparsity: float) -> bool:
    """Whether several tensors share a budget, and have a floor each."""
    shares = [share for arena in competition.arenas for share in competition.shares(arena, sparsity)]
    return any(len(share.members) > 1 and competition.scope.bounds(share.sparsity)[0] > 0 for share in shares)


def _check(spec: RegrowFields, context: PlanContext, window: StepWindow, phases: Phases | None) -> None:
    """Report windows in which nothing would be exchanged, and phases of no step."""
    if window.end == window.begin:
        context.problem(f"the window is empty: it begins and ends at step {window.begin}", "window")
    elif phases is None and window.count() < 3:
        message = f"between its ends nothing is exchanged: the window lasts {window.end - window.begin} steps"
        context.problem(f"{message}, and an update is due every {window.every}", "window", "every")
    elif phases is not None and not 0 < phases.dense < window.every:
        message = f"a dense phase of {phases.dense} steps in a period of {window.every} leaves one of the two no step"
        context.problem(message, "dense")
    elif phases is not None and not phases.periods:
        message = f"no period of {window.every} steps fits into the {window.end - window.begin} of the window"
        context.problem(message, "window", "every")
