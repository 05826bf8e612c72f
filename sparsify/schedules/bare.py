"""Specs for which a recipe may write something shorter, such as a number: what JSON Schema is told of it."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def or_bare(schema: CoreSchema, handler: GetJsonSchemaHandler, bare: dict[str, Any]) -> JsonSchemaValue:
    """Return the schema of a spec that may be written as something of the schema `bare`."""
    spec = handler(schema)
    fields = handler.resolve_ref_schema(spec)
    shape = dict(fields)
    fields.clear()
    fields.update({"anyOf": [bare, shape]})
    return spec


def is_number(value: Any) -> bool:
    """Whether a value is a bare number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
