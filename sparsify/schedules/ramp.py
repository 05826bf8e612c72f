"""A ramp: the sparsity at the beginning, the sparsity at the end, the curve between them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, PlainValidator, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import Self

from sparsify.schedules.base import Curve
from sparsify.schedules.cubic import Cubic
from sparsify.spec import Spec, fail, fail_at

EXISTING: Literal["existing"] = "existing"

Fraction = Annotated[float, Field(ge=0, le=1)]


def _start(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == EXISTING or (number and 0 <= value <= 1):
        return float(value) if number else value
    raise fail(f"expected a sparsity from 0 to 1, or 'existing', got {value!r}")


Start = Annotated[
    float | Literal["existing"],
    PlainValidator(_start),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "existing"}]}),
]


class Ramp(Spec):
    """The sparsity over time. A bare number `s` in a recipe stands for `{to: s}`."""

    from_: Start = Field(default=0.0, alias="from")
    """Sparsity at the first update; `existing` measures the zeros that are there when the window opens."""

    to: Fraction
    """Sparsity at the last update and ever after: the fraction of the targeted weights that is zero."""

    curve: Curve = Cubic()
    """The shape between the two."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: Any) -> Any:
        return {"to": data} if isinstance(data, (int, float)) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.from_ != EXISTING and self.from_ > self.to:
            raise fail_at("Ramp", ("from",), f"sparsity falls from {self.from_} to {self.to}", self.from_)
        return self

    def at(self, progress: float, existing: float = 0.0) -> float:
        """Return the sparsity at `progress` in [0, 1]; `existing` replaces a start that was measured."""
        start = min(existing, self.to) if self.from_ == EXISTING else self.from_
        return self.curve.value(progress, start, self.to)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        ramp = handler(schema)
        fields = handler.resolve_ref_schema(ramp)
        shape = dict(fields)
        fields.clear()
        fields.update({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, shape]})
        return ramp
