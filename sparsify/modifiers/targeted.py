"""The base of modifiers that act on chosen weights, cut into groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparsify.anatomy.coverage import UNKNOWN, coverage
from sparsify.anatomy.parts import DEFAULT
from sparsify.errors import PlanError
from sparsify.layers import Weight, aliases, unprunable, unsuitable
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Modifier, Needed
from sparsify.patterns import Pattern
from sparsify.patterns.base import Misfit
from sparsify.patterns.bundle import Bundle
from sparsify.selectors import Layers, Selectors
from sparsify.structure.coupled import coupled_bundles
from sparsify.targets import Targets


class Targeted(Modifier):
    """A modifier with `targets`."""

    targets: Selectors | None = None
    """Roles (`attention`, `ffn.down`), modules by name (glob, `re:`) or `type:`.

    Left out, or `default`: every linear and convolutional weight except embeddings and task head.
    """

    exclude: Selectors | None = None
    """What is left out although `targets` match it."""

    layers: Layers | None = None
    """Only weights in these layers, counted from 0: `3`, `0-5`, or a list; for models that have layers."""

    def find(self, context: PlanContext, finder: Targets) -> list[Weight]:
        """Return what a finder finds; what does not fit is reported, what is tied is noted."""
        weights = finder.select(self.targets, self.exclude or (), self.layers)
        for problem in finder.problems:
            written = getattr(self, problem.key) is not None
            path: list[str | int] = [problem.key] if written else []
            if written and problem.index is not None:
                path.append(problem.index)
            context.problem(problem.message, *path)
        _note_ties(context, weights)
        return weights

    def select(self, context: PlanContext, role: str) -> list[Weight]:
        """Return the weights that are meant; `default` is `role`. What does not fit is reported."""
        weights = self.find(context, Targets(context.model, context.anatomy, role))
        together: dict[str, list[str]] = {}
        for name, reason in unprunable(context.model).items():
            together.setdefault(reason, []).append(name)
        context.notes += [f"{context.key}: {_some(names)}: {why}" for why, names in together.items()]
        return weights

    def cut(self, context: PlanContext, weights: Sequence[Weight], pattern: Pattern) -> list[Bundle]:
        """Return the weights as the pattern cuts them; what cannot be masked or cut is reported."""
        unfit: dict[str, list[str]] = {}
        for weight in weights:
            if reason := unsuitable(weight.parameter) or self.unfit(weight):
                unfit.setdefault(reason, []).append(weight.name)
        misfits = [Misfit(reason, tuple(names), "targets") for reason, names in unfit.items()]
        bundles: list[Bundle] = []
        if not misfits and pattern.couples:
            try:
                bundles, misfits = coupled_bundles(context.model, weights, context.example_inputs)
            except PlanError as error:
                context.problem(str(error), "pattern")
        elif not misfits:
            bundles, misfits = pattern.bundles(weights, context.anatomy)
        report(context, misfits)
        return bundles

    def bindings(self) -> dict[str, Needed]:
        pattern = getattr(self, "pattern", None)
        if not isinstance(pattern, Pattern) or not pattern.couples:
            return {}
        return {"example_inputs": Needed("what the model's forward takes, to follow its channels", required=False)}

    def unfit(self, weight: Weight) -> str | None:
        """Return why a weight cannot be acted on, or None."""
        return None


class Sparsifying(Targeted):
    """A modifier that makes zeros where its `targets` say, and says what `default` leaves out."""

    allow_partial: bool | None = None
    """Whether `targets: default` may cover less than half of the model's matrix weights, which is an error
    otherwise."""

    def select(self, context: PlanContext, role: str) -> list[Weight]:
        weights = super().select(context, role)
        alone = self.targets in (None, (DEFAULT,)) and not self.exclude and self.layers is None
        if weights and alone and role == DEFAULT:
            if not context.layered:
                context.notes.append(_without_layers(context))
            self._tell_coverage(context, weights)
        return weights

    def _tell_coverage(self, context: PlanContext, weights: Sequence[Weight]) -> None:
        """Note what `default` leaves out of the model; refuse it where that is more than half."""
        found = coverage(context.model, context.anatomy, weights)
        if 2 * found.covered < found.total and not self.allow_partial:
            how = "name `targets`, or write `allow_partial: true`"
            if any(UNKNOWN in each.why for each in found.missed):
                how += "; sparsify.register_layer makes classes of layers known"
            context.problem(f"`targets: default` {found}; {how}", "targets")
        elif found.covered < found.total:
            context.notes.append(f"{context.key}: {found}")


def _without_layers(context: PlanContext) -> str:
    """Say what `default` is where nothing repeats."""
    heads = [weight.name for weight in context.anatomy.task_head] if context.anatomy else []
    but = f"embeddings and {', '.join(heads)}, the task head" if heads else "embeddings"
    return f"{context.key}: nothing repeats in {type(context.model).__name__}: `default` is every matrix but {but}"


def whole_gradients(weight: Weight) -> str | None:
    """Return why a weight has no gradient everywhere, or None."""
    return "has sparse gradients; build its embedding with `sparse=False`" if weight.sparse_gradients else None


def report(context: PlanContext, misfits: Iterable[Misfit]) -> None:
    """Report what does not fit."""
    for misfit in misfits:
        message = f"{_some(misfit.names)}: {misfit.reason}" if misfit.names else misfit.reason
        if misfit.note:
            context.notes.append(f"{context.key}: {message}")
        else:
            context.problem(message, misfit.key)


def _note_ties(context: PlanContext, weights: Sequence[Weight]) -> None:
    shared = aliases(context.model)
    for weight in weights:
        others = [name for name in shared.get(id(weight.parameter), ()) if name != weight.name]
        if others:
            context.notes.append(f"{weight.name} is the same tensor as {', '.join(others)}: both have one mask")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
