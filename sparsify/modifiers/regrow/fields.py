"""What a `regrow` in a recipe says, and what must hold among it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.durations import PositiveDuration, longer
from sparsify.layers import Weight
from sparsify.modifiers.targeted import Sparsifying, whole_gradients
from sparsify.schedules import EXISTING, Curve, Level, Ramp, Window
from sparsify.schedules.cosine import Cosine
from sparsify.schedules.shorthand import is_number
from sparsify.scopes import Scope
from sparsify.scopes.erk import ErkScope
from sparsify.spec import fail_at, integral


class HeldRamp(Ramp):
    """The sparsity over the window. A bare number holds from the first update on: sparse from the beginning."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: Any) -> Any:
        return data if isinstance(data, (dict, cls)) else {"from": data, "to": data}

    @model_validator(mode="after")
    def _is_a_number(self) -> Self:
        if self.from_ == EXISTING:
            raise fail_at("HeldRamp", ("from",), "`regrow` starts at a number (see `existing`)", self.from_)
        return self


class Exchanged(Level):
    """A fraction of the weights that are there. A bare number falls to 0 over the window, by half a cosine."""

    curve: Curve = Cosine()
    """The shape between the two."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: Any) -> Any:
        return {"from": data, "to": 0.0} if is_number(data) else data

    @model_validator(mode="after")
    def _is_a_fraction(self) -> Self:
        for key, value in (("from", self.from_), ("to", self.to)):
            if value > 1:
                raise fail_at("Exchanged", (key,), f"a fraction lies between 0 and 1, got {value:g}", value)
        if self.from_ > self.to and self.curve.type == "exponential":
            raise fail_at("Exchanged", ("curve",), "the exponential curve only rises: choose another", None)
        return self


class RegrowFields(Sparsifying):
    """What a recipe writes."""

    sparsity: HeldRamp
    """How much is zero. A bare number holds from the beginning of the window on; `{from, to, curve}` rises."""

    grow: Literal["gradient", "random", "everything"] = "gradient"
    """What comes back at an update, in place of the smallest weights: where the dense gradient is largest (RigL), at
    random (SET), or, for a part of every period, `everything` (AC/DC)."""

    fraction: Exchanged = Exchanged(from_=0.3, to=0.0)
    """How much of what is there is exchanged at an update. A bare number α falls to 0: α/2·(1 + cos πp)."""

    dense: PositiveDuration | None = None
    """With `grow: everything`: how long at the end of each `every` nothing is masked."""

    scope: Scope = ErkScope()
    """How sparsity is distributed, and who is exchanged for whom: within a tensor, but `global` for all together."""

    start: Literal["magnitude", "random"] = "magnitude"
    """What the first mask keeps: the largest weights, or random ones (as published, for training from scratch)."""

    existing: Literal["stay", "grow"] = "stay"
    """What earlier modifiers have pruned: it stays pruned, or may grow back."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1), integral] = 0
    """The seed of what is chosen at random."""

    window: Window
    """The first mask is made at its beginning, and the last at its end; an exchange every `every`."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        phases = self.grow == "everything"
        for key, wrong, message in (
            ("dense", not phases and self.dense is not None, "only `grow: everything` has dense phases"),
            ("grow", phases and self.dense is None, "`everything` needs `dense`: how long of each `every`"),
            ("fraction", phases and "fraction" in self.model_fields_set, "`grow: everything` takes no `fraction`"),
            ("start", phases and self.start == "random", "`grow: everything` keeps the largest weights"),
            ("scope", self.scope.by_row, f"the scope {self.scope.type!r} ranks each row by itself; choose another"),
        ):
            if wrong:
                raise fail_at("Regrow", (key,), message, None)
        if self.dense is not None and not longer(self.window.every, self.dense) and _alike(self):
            message = f"a dense phase of {self.dense} leaves nothing of a period of {self.window.every}"
            raise fail_at("Regrow", ("dense",), message, None)
        if self.sparsity.to > self.scope.highest() + 1e-9:
            message = f"the scope allows a sparsity of at most {self.scope.highest():g}, got {self.sparsity.to:g}"
            raise fail_at("Regrow", ("sparsity",), message, None)
        return self

    def unfit(self, weight: Weight) -> str | None:
        if not weight.parameter.requires_grad:
            return "is frozen, so that nothing can grow in it"
        return whole_gradients(weight) if self.grow == "gradient" else None


def _alike(spec: RegrowFields) -> bool:
    """Whether a dense phase and a period are written in one unit, so that they can be compared before a plan."""
    return spec.dense is not None and spec.dense.unit == spec.window.every.unit
