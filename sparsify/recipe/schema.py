"""The JSON Schema of recipes, generated from the models that validate them.

For keys, types, enums and literal ranges it accepts and rejects what pydantic does. Scalars below
`modifiers` and `stages` may be expressions as well. `ONLY_PYDANTIC` lists what a schema cannot see.
"""

from __future__ import annotations

import json
from typing import Any

from sparsify.recipe.migrate import CURRENT
from sparsify.recipe.recipe import Recipe
from sparsify.recipe.variables import RESERVED
from sparsify.spec import FAMILY_KEY, Family

FILE = f"recipe.v{CURRENT}.json"

ONLY_PYDANTIC = (
    "the value of an expression, and whether its variables are declared",
    "a variable's value against its own type, bounds and choices, and bounds against each other",
    "`from` not above `to`",
    "`n` less than `m` in N:M, and a sparsity within 1 − n/m and the scope's ceiling",
    "a floor not above the ceiling, layers that run backwards",
    "a scope or a criterion that does not go with the pattern",
    "`sparsity` given where the criterion keeps the existing zeros, or missing where it does not",
    "which of `threshold`, `penalty`, `finish` and `masking` go with the criterion; a threshold between 0 and 1",
    "the roles that a penalty names",
    "that `distill` has a term, which fields go with its loss, a hardness of at most 1, pairs of layers written twice",
    "regular expressions in selectors, which RE2 must accept",
    "the steps of a multistep curve, which must rise",
    "two stages of one name, two stages without a length, lengths in percent beyond 100 %",
    "a window (or a penalty's ramp) that ends before it begins, or after its stage; an `every` longer than it",
    "`extends`: whether the other recipe exists, stays in the folder, and makes no circle",
)

_EXPRESSION = {"$ref": "#/$defs/Expression"}
_OUTSIDE = ("About", "Binding", "Result", "Variable")
"""Where `${` is plain text."""

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """Return the schema as plain data."""
    definitions: Schema = {}
    recipe = _closed(Recipe.model_json_schema(by_alias=True), definitions)
    for name, definition in definitions.items():
        if name not in _OUTSIDE:
            _allow_expressions(definition)
    definitions["Variable"] = {"anyOf": [{"type": ["string", "number", "boolean"]}, definitions["Variable"]]}
    definitions["Expression"] = {
        "type": "string",
        "pattern": r"\$\{[^{}]*\}",
        "description": "Arithmetic over variables, such as ${sparsity / 2}.",
    }
    for name in ("variables", "bindings"):
        recipe["properties"][name]["additionalProperties"] = False
    recipe["properties"]["bindings"]["propertyNames"] = {"not": {"enum": list(RESERVED)}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sparsify recipe",
        "$comment": "Seen by pydantic only: " + "; ".join(ONLY_PYDANTIC) + ".",
        **recipe,
        # a recipe that extends another may leave its body to it
        "anyOf": [{"required": ["modifiers"]}, {"required": ["stages"]}, {"required": ["extends"]}],
        "not": {"required": ["modifiers", "stages"]},
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """Return the schema as it stands in `schemas/`."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def _closed(schema: Schema, definitions: Schema) -> Schema:
    """Move nested definitions to `definitions`, and write every family that is met there."""
    for name, definition in schema.pop("$defs", {}).items():
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _closed(definition, definitions)
    closed: Schema = _families(schema, definitions)
    closed.pop("title", None)
    return closed


def _families(node: Any, definitions: Schema) -> Any:
    """Replace the placeholders of families by references; drop the titles that pydantic makes up."""
    if isinstance(node, list):
        return [_families(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    family = node.pop(FAMILY_KEY, None)
    if family is not None:
        node["$ref"] = _define(family, definitions)
    for field in node.get("properties", {}).values():
        field.pop("title", None)
    return {key: _families(value, definitions) for key, value in node.items()}


def _define(family: type[Family], definitions: Schema) -> str:
    """Write a family's members, and the choice among them, into `definitions`; return the reference."""
    name = family.__name__
    if name not in definitions:
        definitions[name] = {}
        members = family.members()
        plain = [tag for tag, member in members.items() if member.needs_no_field()]
        choices: list[Schema] = [{"enum": plain}] if plain else []
        choices += [
            {"type": "string", "pattern": member.text_pattern} for member in members.values() if member.text_pattern
        ]
        for member in members.values():
            if member.__name__ not in definitions:
                schema = _closed(member.model_json_schema(by_alias=True), definitions)
                schema["required"] = sorted({*schema.get("required", ()), "type"})
                definitions[member.__name__] = schema
            choices.append({"$ref": f"#/$defs/{member.__name__}"})
        definitions[name] = {"anyOf": choices}
    return f"#/$defs/{name}"


def _allow_expressions(definition: Schema) -> None:
    """Let every scalar among the properties of a definition be an expression too, in place."""
    for branch in (definition, *definition.get("anyOf", ())):
        for name, field in branch.get("properties", {}).items():
            if name != "type":
                branch["properties"][name] = _with_expression(field)


def _with_expression(field: Schema) -> Schema:
    inner = dict(field)
    outer: Schema = {key: inner.pop(key) for key in ("default", "description") if key in inner}
    for key in ("items", "prefixItems", "anyOf"):
        if isinstance(inner.get(key), dict):
            inner[key] = _with_expression(inner[key])
        elif key in inner:
            inner[key] = [_with_expression(item) if _is_list(item) or key != "anyOf" else item for item in inner[key]]
    if _is_list(inner) or inner.get("type") == "object":
        return {**inner, **outer}
    choices = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    return {"anyOf": [*choices, _EXPRESSION], **outer}


def _is_list(field: Schema) -> bool:
    return field.get("type") == "array"
