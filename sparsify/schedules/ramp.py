"""A ramp: the sparsity at the beginning, the sparsity at the end, the curve between them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, PlainValidator, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import Self

from sparsify.errors import did_you_mean
from sparsify.schedules.base import Curve
from sparsify.schedules.cubic import Cubic
from sparsify.schedules.shorthand import is_number, or_shorthand
from sparsify.spec import Spec, fail, fail_at

EXISTING: Literal["existing"] = "existing"

_RANGE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}


def _fraction(value: Any) -> float:
    """Return a sparsity from 0 to 1, or fail, with a hint for percentages."""
    number = float(value) if is_number(value) else None
    if number is not None and 0 <= number <= 1:
        return number
    percent = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%?", str(value))
    hint = f" (did you mean {float(percent[1]) / 100:g}?)" if percent and 1 < float(percent[1]) <= 100 else ""
    shown = "nothing" if value is None else repr(value)
    raise fail(f"a sparsity is a fraction from 0 to 1, got {shown}{hint}")


def _start(value: Any) -> float | str:
    if isinstance(value, str) and not value.endswith("%") and value != EXISTING:
        raise fail(f"expected a fraction from 0 to 1 or 'existing', got {value!r}{did_you_mean(value, [EXISTING])}")
    return EXISTING if value == EXISTING else _fraction(value)


Fraction = Annotated[float, PlainValidator(_fraction), WithJsonSchema(_RANGE)]

Start = Annotated[
    float | Literal["existing"],
    PlainValidator(_start),
    WithJsonSchema({"anyOf": [_RANGE, {"const": EXISTING}]}),
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
        return data if isinstance(data, (dict, cls)) else {"to": _fraction(data)}

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
        return or_shorthand(schema, handler, _RANGE)
