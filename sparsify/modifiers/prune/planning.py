"""From a `prune` in a recipe, a model and a stage to its plan."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify.criteria.learned import Gated, Learned
from sparsify.durations import Duration
from sparsify.errors import did_you_mean
from sparsify.layers import Weight
from sparsify.masking import Competition
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.expected import expect
from sparsify.modifiers.prune.fields import PruneFields
from sparsify.modifiers.prune.plan import PrunePlan, Strength
from sparsify.modifiers.span import ClockError
from sparsify.modifiers.targeted import report
from sparsify.patterns.base import Misfit
from sparsify.patterns.bundle import Bundle
from sparsify.schedules import EXISTING, Window
from sparsify.schedules.window import StepWindow
from sparsify.scopes.base import absent_roles

GIVEN = frozenset({"scores", "statistics"})
"""What `prune` gives to criteria that need it."""

LONG = 5000
"""Optimizer steps below which equal starts are warned of: whole models collapse at 2,600, two layers lose 1.8 points at
3,464 and half a point at 6,928, published runs have 50,000."""

COARSE = 0.005
"""By how much a model may become sparser than asked for without a note."""


def resolve(prune: PruneFields, context: PlanContext) -> PrunePlan | None:
    """Return the plan, or None after reporting what does not fit."""
    before = len(context.problems)
    if needs := sorted(prune.criterion.needs - GIVEN):
        context.problem(
            f"the criterion {prune.criterion.type!r} needs {', '.join(needs)}, which `prune` cannot give yet",
            "criterion",
        )
    window = _window(prune, context)
    strength = _strength(prune, context, window)
    bundles = _bundles(prune, context)
    if window is None or len(context.problems) > before:
        return None
    competition = Competition.of(bundles, prune.criterion, prune.pattern, prune.scope, context.anatomy)
    target = prune.sparsity.to if prune.sparsity else None
    if target is not None and (reason := competition.impossible(target)):
        context.problem(reason, "sparsity")
        return None
    if _unused_roles(prune, context, competition):
        return None
    tensors, nonzeros = expect(competition, target)
    _note_coarseness(context, target, nonzeros, sum(tensor.elements for tensor in tensors))
    facts = {
        "criterion": prune.criterion.label(),
        "pattern": prune.pattern.label(),
        "scope": prune.scope.label(),
        "curve": prune.sparsity.curve.label() if prune.sparsity else "constant",
        **({"masking": "admm, dense until the window ends"} if prune.dense else {}),
    }
    if strength is not None and not prune.dense:
        facts["curve"] = f"λ to {strength.level.to:g}"
    weights = tuple(part.weight for bundle in bundles for part in bundle.parts)
    biases = own_biases(bundles) if prune.biases == "with-rows" else {}
    _note_start(prune, context, window)
    _note_reach(prune, context, window)
    return PrunePlan(
        key=context.key,
        type=prune.type,
        window=window,
        stage=context.span,
        tensors=tensors,
        nonzeros=nonzeros,
        facts=facts,
        weights=weights,
        followers=tuple(biases.values()),
        spec=prune,
        competition=competition,
        strength=strength,
        biases=biases,
        latent=prune.latent,
        holds=(context.span.begin, window.end) if prune.latent else None,
        touches=weights if prune.criterion.learned or prune.dense else (),
        unknown="by the threshold" if prune.criterion.gated else "existing zeros",
        starts=prune.sparsity.at(0.0) if prune.sparsity and prune.sparsity.from_ != EXISTING else None,
        reaches=target,
        keeps_zeros=prune.criterion.keeps_zeros or (prune.sparsity is not None and prune.sparsity.from_ == EXISTING),
    )


def _window(prune: PruneFields, context: PlanContext) -> StepWindow | None:
    """Resolve the window; a lock and a curve of one shot have one update, at its beginning."""
    lock, curve = prune.criterion.keeps_zeros, prune.sparsity.curve if prune.sparsity else None
    once = lock or (curve is not None and curve.once)
    jumps = curve is not None and curve.jumps and not prune.criterion.gated
    written = prune.window
    if once and written.end is not None:
        what = f"the curve {curve.type!r}" if curve is not None else "a lock"
        context.problem(f"{what} has one update, at `begin`: leave `end` out", "window", "end")
        return None
    if once or (jumps and written.end is None):
        written = written.model_copy(update={"end": written.begin})
    try:
        window = context.span.window(written)
    except ClockError as error:
        context.problem(str(error), "window", *([error.key] if error.key else []))
        return None
    if prune.criterion.learned and window.end == context.span.begin:
        context.problem("the window ends where the stage begins: scores have no time to learn", "window")
    if lock or jumps:
        return window
    if window.end == window.begin:
        context.problem(f"the window is empty: it begins and ends at step {window.begin}", "window")
    elif window.count() < 3 and (prune.sparsity is None or prune.sparsity.from_ != prune.sparsity.to):
        message = (
            f"the sparsity would jump: in the {window.end - window.begin} steps of the window there is no update "
            f"between its first and its last (one every {window.every} steps); write `every: 1` (`--set every=1` "
            "where the recipe has that variable), train for more steps, or write `curve: constant`"
        )
        context.problem(message, "window", "every")
    return window


def _strength(prune: PruneFields, context: PlanContext, window: StepWindow | None) -> Strength | None:
    """Resolve a penalty that is not steered."""
    level = prune.penalty.level if prune.penalty else None
    if prune.penalty is None or level is None or window is None:
        return None
    begin, end = prune.penalty.begin, prune.penalty.end
    try:
        own = context.span.window(Window(begin=begin or Duration(0), end=end))
    except ClockError as error:
        context.problem(str(error), "penalty", *([error.key] if error.key else []))
        return None
    first = own.begin if begin is not None else window.begin
    last = own.end if end is not None else window.end
    if last <= first and level.from_ != level.to:
        context.problem(f"the penalty would jump: its ramp begins at step {first} and ends at step {last}", "penalty")
    return Strength(StepWindow(first, max(first, last), 1), level)


def _bundles(prune: PruneFields, context: PlanContext) -> list[Bundle]:
    """Resolve the targets, and cut them as the pattern wants; report what does not fit."""
    bundles = prune.cut(context, prune.select(context, prune.pattern.role), prune.pattern)
    misfits = []
    if prune.scope.by_row and (ragged := tuple(bundle.name for bundle in bundles if bundle.sizes is not None)):
        misfits.append(Misfit("in a row, all groups must be of one size", ragged, "scope"))
    if prune.scope.needs_anatomy() and not context.layered:
        misfits.append(
            Misfit(f"{prune.scope.needs_anatomy()} needs a model with layers: nothing repeats in this one", key="scope")
        )
    report(context, misfits)
    return bundles


def _unused_roles(prune: PruneFields, context: PlanContext, competition: Competition) -> bool:
    """Report roles of the penalty that nothing targeted has; return whether there are any."""
    roles = {each.role for each in competition.facts} - {""}
    unused = absent_roles(prune.penalty.roles if prune.penalty else (), competition.facts)
    for role in unused:
        context.problem(
            f"the role {role!r} has no effect: nothing targeted has it{did_you_mean(role, roles)}", "penalty"
        )
    return bool(unused)


def _note_start(prune: PruneFields, context: PlanContext, window: StepWindow) -> None:
    """Warn of scores that start alike in a short run: the first masks are made almost at random."""
    criterion = prune.criterion
    steps = window.end - context.span.begin
    if isinstance(criterion, Learned) and criterion.init != "magnitude" and steps < LONG:
        context.notes.append(
            f"{context.key}: scores that start at {criterion.init} have {steps} steps to learn, and Adam moves all of "
            f"them by the same amount at first; in a run this short write `init: magnitude` in the criterion"
        )


def _note_reach(prune: PruneFields, context: PlanContext, window: StepWindow) -> None:
    """Warn of gates that have too little time to close: Adam moves a score by its learning rate a step at most."""
    criterion = prune.criterion
    if not isinstance(criterion, Gated) or prune.sparsity is None or criterion.optimizer != "adam":
        return
    steps = window.end - context.span.begin
    need = abs(criterion.distance())
    if criterion.learning_rate * steps / 2 < need:  # half, for the user's learning rate falls and ramps begin late
        rate = 2 * need / max(steps, 1)
        context.notes.append(
            f"{context.key}: the criterion's learning rate of {criterion.learning_rate:g} (not that of your optimizer) "
            f"is too low: in {steps} steps scores cannot reach their threshold, {need:.1f} away; write `learning_rate: "
            f"{rate:.2g}` in the criterion"
        )


def own_biases(bundles: Sequence[Bundle]) -> dict[str, Weight]:
    """Return the biases of the matrices (by their names) that no bundle has already."""
    taken = {part.weight.name for bundle in bundles for part in bundle.parts}
    found = {part.weight.name: part.weight.bias() for bundle in bundles for part in bundle.parts}
    return {name: bias for name, bias in found.items() if bias is not None and bias.name not in taken}


def _note_coarseness(context: PlanContext, target: float | None, nonzeros: int | None, elements: int) -> None:
    """Say so where whole groups make a model sparser than was asked for."""
    if target is not None and nonzeros is not None and elements:
        reached = 1 - nonzeros / elements
        if reached > target + COARSE:
            context.notes.append(
                f"{context.key}: {target:.2%} was asked for, but whole groups can only give {reached:.2%}"
            )
