"""Values that may be written in a shorter way, as a number or a list: what JSON Schema is told of it."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def or_shorthand(schema: CoreSchema, handler: GetJsonSchemaHandler, shorter: dict[str, Any]) -> JsonSchemaValue:
    """Return the schema of a spec that may be written as something of the schema `shorter`."""
    spec = handler(schema)
    fields = handler.resolve_ref_schema(spec)
    shape = dict(fields)
    fields.clear()
    fields.update({"anyOf": [shorter, shape]})
    return spec


def is_number(value: Any) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
