"""What a recipe leaves open: variables (values, part of the recipe) and bindings (objects, given to `apply`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator
from typing_extensions import Self

from sparsify.errors import did_you_mean
from sparsify.escaping import is_text, quoted
from sparsify.spec import MOST_LISTED, Spec, fail, fail_at

LARGEST = 10**40
"""Whole numbers beyond it are no values; Python refuses even to write very long ones."""


def _value(value: Any) -> Any:
    if wrong := _unusable(value):
        raise fail(wrong)
    return value


def _unusable(value: Any) -> str | None:
    """Return why something cannot be a variable's value, whatever the variable's type; or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if is_text(value) else "half of a surrogate pair is no text"
    if isinstance(value, int):
        return f"a whole number beyond ±{LARGEST:.0e}" if abs(value) > LARGEST else None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value} is not a finite number"
    shown = "nothing" if value is None else f"a {type(value).__name__}"
    return f"expected a number, a string, true or false, got {shown}"


Value = Annotated[
    bool | int | float | str,
    PlainValidator(_value),
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
]
Kind = Literal["number", "integer", "string", "boolean"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class Variable(Spec):
    """A typed value that `${name}` stands for. A bare value `v` in a recipe stands for `{value: v}`."""

    value: Value
    """The default."""

    type: Kind | None = None
    """By default read off the value; whole numbers count as `number` unless `integer` is written."""

    min: float | None = None
    """Least number allowed."""

    max: float | None = None
    """Largest number allowed."""

    choices: list[Value] | None = None
    """The only values allowed."""

    description: str = ""
    """What it is for."""

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, data: Any) -> Any:
        return data if isinstance(data, (dict, cls)) else {"value": _value(data)}

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.kind not in ("number", "integer") and (self.min is not None or self.max is not None):
            key = "min" if self.min is not None else "max"
            raise fail_at("Variable", (key,), f"a {self.kind} has no bounds", self.value)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise fail_at("Variable", ("min",), f"min {self.min} is above max {self.max}", self.min)
        problem = self.problem(self.value)
        if problem:
            raise fail_at("Variable", ("value",), problem, self.value)
        return self

    @property
    def kind(self) -> Kind:
        """The type, written or read off the value."""
        if self.type is not None:
            return self.type
        if isinstance(self.value, bool):
            return "boolean"
        return "string" if isinstance(self.value, str) else "number"

    def problem(self, value: Any) -> str | None:
        """Return why `value` is not allowed, or None."""
        if wrong := _unusable(value):
            return wrong
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = number and float(value).is_integer()
        fits = {
            "number": number,
            "integer": whole,
            "string": isinstance(value, str),
            "boolean": isinstance(value, bool),
        }
        if not fits[self.kind]:
            return f"expected {'an' if self.kind == 'integer' else 'a'} {self.kind}, got {quoted(value)}"
        if self.min is not None and value < self.min:
            return f"must be at least {self.min:g}, got {quoted(value)}"
        if self.max is not None and value > self.max:
            return f"must be at most {self.max:g}, got {quoted(value)}"
        if self.choices is not None and value not in self.choices:
            more = ", …" if len(self.choices) > MOST_LISTED else ""
            return f"must be one of {', '.join(map(quoted, self.choices[:MOST_LISTED]))}{more}, got {quoted(value)}"
        return None


RESERVED = ("epochs", "evaluate", "model", "optimizer", "scaler", "self", "state", "steps_per_epoch", "total_steps")
"""Arguments of `Manager.apply` and `attach`, which take bindings by name beside them."""


class Binding(Spec):
    """An object that the recipe needs and does not contain, such as a teacher. Not part of the hash."""

    description: str = ""
    """What is expected."""

    required: bool = True
    """Whether `apply` must be given it."""


def check_overrides(variables: Mapping[str, Variable], overrides: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the values given for variables."""
    problems = []
    for name, value in overrides.items():
        if name not in variables:
            hint = did_you_mean(name, variables) if variables else " (the recipe declares none)"
            problems.append(f"unknown variable {name!r}{hint}")
        elif problem := variables[name].problem(value):
            problems.append(f"variable {name!r}: {problem}")
    return problems
