"""`substitute`: norms and activations turn into cheaper functions over a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import nn
from typing_extensions import Self

from sparsify.durations import Duration
from sparsify.modifiers.context import PlanContext
from sparsify.modifiers.contract import Modifier, Session
from sparsify.modifiers.span import ClockError, Span
from sparsify.modifiers.structural import StructureContext
from sparsify.modifiers.substitute import choosing
from sparsify.modifiers.substitute.run import SubstitutePlan, SubstituteRun
from sparsify.modifiers.track import Track
from sparsify.schedules import Window
from sparsify.schedules.base import Curve
from sparsify.schedules.linear import Linear
from sparsify.selectors import Selectors
from sparsify.spec import fail_at, gist
from sparsify.structure.change import Change, Substituted
from sparsify.substitutes import Substitute as Stand


class Substitute(Modifier):
    """Turns norms into NoNorm (y = w·x + b) and activations into ReLU, gradually over a window.

    The new function's share λ rises from 0 to 1: an activation is (1 − λ)·f(x) + λ·max(x, 0); a norm's mean and
    variance go from the token's to constants, which go into its weight and bias at the end. It stands in the first
    stage. Sources: Lagunas et al., "Block Pruning For Faster Transformers" (2021) and its code, nn_pruning; Sun et al.,
    "MobileBERT" (2020).
    """

    type: Literal["substitute"] = "substitute"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"norms": "nonorm"}, {"activations": "relu"})

    norms: Literal["nonorm"] | None = None
    """What LayerNorm and RMSNorm become."""

    activations: Literal["relu"] | None = None
    """What the activations become that the configuration names (`hidden_act`, `activation_function`, …)."""

    targets: Selectors | None = None
    """Which norms: modules by name (glob, `re:`) or `type:`. Left out: all but the task head's."""

    exclude: Selectors | None = None
    """Which norms stay."""

    window: Window = Window()
    """When λ rises from 0 to 1."""

    curve: Curve = Linear()
    """How it rises."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.norms is None and self.activations is None:
            raise fail_at("Substitute", (), "nothing to substitute: write `norms: nonorm`, `activations: relu`", None)
        for key in ("targets", "exclude"):
            if self.norms is None and getattr(self, key) is not None:
                raise fail_at("Substitute", (key,), f"`{key}` goes with `norms`", None)
        if self.curve.jumps:
            raise fail_at("Substitute", ("curve",), "nothing is gradual about a curve that jumps at once", None)
        return self

    def explain(self) -> list[str]:
        what = [name for name, on in (("norms by NoNorm", self.norms), ("activations by ReLU", self.activations)) if on]
        return [
            f"Substitutes {' and '.join(what)}. ({gist(self)})",
            f"When: from {self.window.begin} of the stage to {self.window.end or 'its end'}, {self.curve.label()}.",
        ]

    def durations(self) -> list[Duration]:
        return [each for each in (self.window.begin, self.window.end, self.window.every) if each is not None]

    def track(self, span: Span, most: int) -> Track | None:
        return Track(span.window(self.window), words="substitutes")

    @classmethod
    def findings(cls, found: Mapping[str, Any]) -> list[str]:
        share = found.get("share")
        if not isinstance(share, (int, float)):
            return []
        what = f"{found.get('norms')} norms and {found.get('activations')} activations"
        return [f"{what} are substituted, by {share:.0%}; {found.get('loading')}"]

    def restructures(self) -> bool:
        return True

    def choose(self, model: nn.Module, context: StructureContext) -> Change | None:
        norms: tuple[str, ...] = ()
        activations: tuple[str, ...] = ()
        marked, fields = False, dict[str, tuple[str, str]]()
        if self.norms is not None:
            norms, marked, fields = choosing.norms(model, self.targets, self.exclude or (), context)
        if self.activations is not None:
            activations, more = choosing.activations(model, context)
            fields |= more
        for key, other in context.others.items():
            if isinstance(other, Substituted) and {*norms, *activations} & {*other.norms, *other.activations}:
                context.problem(f"{key} substitutes {(*norms, *activations)[0]} already")
        return None if context.problems else Substituted(norms, activations, marked and bool(norms), fields)

    def restructure(self, model: nn.Module, change: Change) -> list[nn.Parameter]:
        assert isinstance(change, Substituted)
        choosing.substitute(model, change)
        return []

    def plan(self, context: PlanContext) -> SubstitutePlan | None:
        change = context.changes.get(context.key)
        if not isinstance(change, Substituted):
            return None  # what is wrong was reported when it was decided
        try:
            window = context.span.window(self.window)
        except ClockError as error:
            context.problem(str(error), "window", *([error.key] if error.key else []))
            return None
        if window.begin == window.end:
            context.problem("it ends when it begins, and nothing would be gradual", "window")
            return None
        facts = {}
        for name, paths, new in (("norms", change.norms, "NoNorm"), ("activations", change.activations, "ReLU")):
            kinds = Counter(_standing(context.model, path) for path in paths)
            if kinds:
                words = {kind: f"{kind} → {new}" if kind != new else f"{new} already" for kind in kinds}
                facts[name] = ", ".join(f"{count} {words[kind]}" for kind, count in kinds.items())
        return SubstitutePlan(
            key=context.key,
            type=self.type,
            window=window,
            stage=context.span,
            tensors=(),
            nonzeros=None,
            facts={**facts, "loading": loading(change)},
            unknown="prunes nothing",
            rescales=window.end if change.norms else None,
            curve=self.curve,
            change=change,
        )

    def make_run(self, plan: Any, session: Session) -> SubstituteRun:
        return SubstituteRun(plan, session)


def loading(change: Substituted) -> str:
    """Return what becomes of the saved folder where sparsify is not."""
    if change.norms and change.marked:
        return "stock from_pretrained fails (weights of norms are saved as [1, n]); sparsify loads the folder"
    said = ", ".join(f"{field}: {after}" for field, (_, after) in change.fields.items())
    return f"stock from_pretrained loads the folder ({said})" if said else "stock from_pretrained loads the folder"


def _standing(model: nn.Module, path: str) -> str:
    parent, _, attribute = path.rpartition(".")
    found = getattr(model.get_submodule(parent), attribute)
    return found.replaced if isinstance(found, Stand) else type(found).__name__
