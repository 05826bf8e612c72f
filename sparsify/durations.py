"""Durations as recipes write them: `500 steps`, `2.5 epochs`, `10%`, or a bare number of steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from sparsify.errors import did_you_mean
from sparsify.spec import fail

Unit = Literal["steps", "epochs", "%"]

PATTERN = r"^([0-9]{1,15} steps?|[0-9]{1,9}(\.[0-9]{1,9})? epochs?|(100(\.0{1,9})?|[0-9]{1,2}(\.[0-9]{1,9})?) ?%)$"
ZERO = r"^0+(\.0+)? ?(steps?|epochs?|%)$"
LONGEST = 10**15
EXAMPLES = "`500 steps`, `2.5 epochs`, `10%` or a whole number of steps"


@dataclass(frozen=True)
class Duration:
    """An amount of training: whole steps, epochs, or percent of the stage it stands in."""

    amount: float
    unit: Unit = "steps"

    def __str__(self) -> str:
        number = format(self.amount, ".12g") if self.unit != "steps" else str(int(self.amount))
        if self.unit == "%":
            return f"{number}%"
        return f"{number} {self.unit[:-1] if self.amount == 1 else self.unit}"

    @classmethod
    def parse(cls, value: Any) -> Duration:
        """Return the duration that a recipe's `value` (an int, a string or a Duration) means."""
        if isinstance(value, Duration):
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < LONGEST:
                return cls(value)
            raise fail(f"a duration is from 0 to {LONGEST - 1} steps, got {value}")
        if isinstance(value, str) and re.fullmatch(PATTERN[1:-1], value):
            if value.endswith("%"):
                return cls(float(value.rstrip("% ")), "%")
            number, unit = value.split(" ")
            return cls(int(number)) if unit.startswith("step") else cls(float(number), "epochs")
        raise fail(f"expected a duration ({EXAMPLES}), got {value!r}{_nearest(value)}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**_SCHEMA}


_SCHEMA: JsonSchemaValue = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "exclusiveMaximum": LONGEST},
        {"type": "string", "pattern": PATTERN},
    ]
}


def _nearest(value: Any) -> str:
    """Suggest a unit for something like `10 step s`, `3 epoch.`, `-5%` or `0.1`."""
    match = re.fullmatch(r"\s*(-?[0-9.]+)\s*([A-Za-z]*|%)\s*", str(value))
    if match is None or isinstance(value, bool):
        return ""
    number, unit = match.groups()
    if number.startswith("-"):
        return " (a duration is never negative)"
    if unit == "%":
        return " (a percentage is at most 100)"
    if not unit:
        return f" (did you mean '{number} epochs' or '{number}%'?)"
    if unit in ("percent", "pct", "p"):
        return f" (did you mean '{number}%'?)"
    hint = did_you_mean(unit.lower(), ["steps", "epochs"])
    return hint.replace("mean '", f"mean '{number} ") if "did you" in hint else hint


def longer(first: Duration, second: Duration) -> bool | None:
    """Return whether `first` is longer than `second` in a stage of whatever length; None where that depends on it."""
    if first.amount == 0:
        return False
    if first.unit == second.unit:
        return first.amount > second.amount
    return True if second.amount == 0 else None


def _not_zero(duration: Duration) -> Duration:
    if duration.amount == 0:
        raise fail("must be more than zero")
    return duration


PositiveDuration = Annotated[
    Duration,
    AfterValidator(_not_zero),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": LONGEST},
                {"type": "string", "pattern": PATTERN, "not": {"pattern": ZERO}},
            ]
        }
    ),
]
