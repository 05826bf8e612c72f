"""A level: a number that goes from one value to another, as thresholds and penalties do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import Self

from sparsify.schedules.base import Curve
from sparsify.schedules.cubic import Cubic
from sparsify.schedules.shorthand import is_number, or_shorthand
from sparsify.spec import Spec, fail_at

NUMBER: dict[str, Any] = {"type": "number", "minimum": 0}
NotNegative = Annotated[float, Field(ge=0, le=1e9)]


class Level(Spec):
    """A number of 0 or more over the window. A bare number `x` in a recipe stands for `{to: x}`."""

    from_: NotNegative = Field(default=0.0, alias="from")
    """At the beginning."""

    to: NotNegative
    """At the end, and ever after."""

    curve: Curve = Cubic()
    """The shape between the two."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: Any) -> Any:
        return {"to": data} if is_number(data) else data

    def at(self, progress: float) -> float:
        """Return the level at `progress` in [0, 1]."""
        return self.curve.value(progress, self.from_, self.to)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_shorthand(schema, handler, NUMBER)


class Factor(Level):
    """A number of 0 or more. A bare number is constant; `{from: x, to: y}` changes over the window."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: Any) -> Any:
        return {"from": data, "to": data} if is_number(data) else data

    def label(self) -> str:
        """Return it in a few words."""
        return f"{self.to:g}" if self.from_ == self.to else f"{self.from_:g} to {self.to:g}"


class Threshold(Level):
    """A threshold on σ(score): it rises to a value strictly between 0 and 1."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not 0 < self.to < 1:
            raise fail_at("Threshold", ("to",), f"a threshold ends strictly between 0 and 1, got {self.to:g}", self.to)
        if self.from_ > self.to:
            raise fail_at("Threshold", ("from",), f"the threshold falls from {self.from_:g} to {self.to:g}", self.from_)
        return self
