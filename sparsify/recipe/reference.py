"""The reference of the recipe language, generated from the models that validate recipes."""

from __future__ import annotations

import inspect
import json
from typing import Any

from sparsify.criteria import Criterion
from sparsify.durations import PATTERN
from sparsify.modifiers import Modifier
from sparsify.modifiers.distill.cache import Cache
from sparsify.modifiers.distill.terms import Term
from sparsify.modifiers.layer_drop.keep import Keep
from sparsify.modifiers.regrow.fields import Exchanged, HeldRamp
from sparsify.patterns import Pattern
from sparsify.recipe.about import About, Result
from sparsify.recipe.recipe import Recipe, Stage
from sparsify.recipe.schema import recipe_schema
from sparsify.recipe.variables import Binding, Variable
from sparsify.schedules import Curve, Factor, Level, Ramp, Threshold, Window
from sparsify.scopes import Scope
from sparsify.spec import Family, Spec

Schema = dict[str, Any]

HEAD = """# Recipe reference

Every key of every value, generated from the models that validate recipes (`sparsify schema --markdown`; `make schema`
writes this page). [The recipe language](recipes.md) tells how they go together. Where a value needs no key but its
`type`, the bare type will do: `pattern: unstructured`. Any value below `modifiers` and `stages` may be an expression,
`${…}`. A **duration** is `500 steps`, `2.5 epochs`, `10%`, or a whole number of steps.
"""

PLAIN: tuple[type[Spec], ...] = (
    *(Recipe, Stage, Ramp, Window, Factor, Level, Threshold),
    *(HeldRamp, Exchanged, Keep, Cache),
    *(Variable, Binding, About, Result),
)
FAMILIES: tuple[tuple[str, type[Family]], ...] = (
    ("Modifiers", Modifier),
    ("Terms", Term),
    ("Criteria", Criterion),
    ("Patterns", Pattern),
    ("Scopes", Scope),
    ("Curves", Curve),
)


def reference_text() -> str:
    """Return the page as Markdown, plug-ins included."""
    definitions = recipe_schema()["$defs"]
    definitions["Recipe"] = {key: value for key, value in recipe_schema().items() if key != "$defs"}
    parts = [HEAD]
    first, *rest = PLAIN
    parts += _plain(first, definitions)
    parts += _plain(rest.pop(0), definitions)
    for title, family in FAMILIES:
        parts.append(f"## {title}\n")
        for tag, member in family.members().items():
            parts.append(f"### `{tag}`\n")
            parts.append(_words(member))
            parts.append(_table(_object(definitions[member.__name__]), ("type",)))
    for kind in rest:
        parts += _plain(kind, definitions)
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _plain(kind: type[Spec], definitions: Schema) -> list[str]:
    return [f"## {kind.__name__}\n", _words(kind), _table(_object(definitions[kind.__name__]))]


def _object(definition: Schema) -> Schema:
    """Return the form with keys of a value that has shorthands too, which may be choices themselves."""
    if "properties" in definition:
        return definition
    return next((found for form in definition.get("anyOf", ()) if (found := _object(form))), {})


def _words(kind: type[Spec]) -> str:
    return (inspect.getdoc(kind) or "").strip() + "\n"


def _table(definition: Schema, leave_out: tuple[str, ...] = ()) -> str:
    rows = [
        (f"`{key}`", _kind(form), _default(key, form, definition.get("required", ())), _meaning(form))
        for key, form in definition["properties"].items()
        if key not in leave_out
    ]
    if not rows:
        return ""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _default(key: str, form: Schema, required: Any) -> str:
    if key in required:
        return "**required**"
    value = form.get("default")
    if value in (None, "", [], {}):
        return "–"
    if isinstance(value, dict) and set(value) == {"type"}:
        value = value["type"]
    return f"`{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}`"


def _meaning(form: Schema) -> str:
    return " ".join(form.get("description", "").split()).replace("|", "\\|")


def _kind(form: Schema) -> str:
    """Return in words what a value may be."""
    forms = [part for part in form.get("anyOf", [form]) if part.get("type") != "null"]
    forms = [part for part in forms if part.get("$ref") != "#/$defs/Expression"]
    if any(part.get("pattern") == PATTERN for part in forms):
        return "duration"
    return ", or ".join(dict.fromkeys(_one(part) for part in forms)) or "anything"


def _one(form: Schema) -> str:
    if "anyOf" in form:
        return _kind(form)
    if "$ref" in form:
        name = form["$ref"].rpartition("/")[2]
        title = next((title for title, family in FAMILIES if family.__name__ == name), name)
        member = next((tag for tag, member in Term.members().items() if member.__name__ == name), None)
        return f"[{member or name.lower()}](#{(member or title).lower()})"
    if "const" in form:
        return f"`{json.dumps(form['const'])}`"
    if "enum" in form:
        return ", ".join(f"`{value}`" for value in form["enum"])
    kind = form.get("type")
    if kind == "array":
        entries = [_kind(part) for part in form.get("prefixItems", [])]
        return f"[{', '.join(entries)}]" if entries else f"list of {_kind(form.get('items', {}))}"
    if kind == "object":
        return "mapping of " + _kind(next(iter(form.get("patternProperties", {"": {}}).values())))
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(form)
    words = {"string": "text", "boolean": "`true` or `false`"}
    return " or ".join(words.get(each, each) for each in ([kind] if isinstance(kind, str) else kind or ["anything"]))


def _bounds(form: Schema) -> str:
    low, high = form.get("minimum"), form.get("maximum")
    above, below = form.get("exclusiveMinimum"), form.get("exclusiveMaximum")
    words = [f"from {low}"] if low is not None else [f"above {above}"] if above is not None else []
    words += [f"to {high}"] if high is not None else [f"below {below}"] if below is not None else []
    return " " + " ".join(words) if words else ""
