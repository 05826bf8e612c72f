"""Values that may be written as a number: the shorthand, and its JSON Schema."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def or_number(schema: CoreSchema, handler: GetJsonSchemaHandler, number: dict[str, Any]) -> JsonSchemaValue:
    """Return the schema of a spec that may be written as a number of the schema `number`."""
    spec = handler(schema)
    fields = handler.resolve_ref_schema(spec)
    shape = dict(fields)
    fields.clear()
    fields.update({"anyOf": [number, shape]})
    return spec


def is_number(value: Any) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
