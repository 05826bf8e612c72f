"""The language of selectors: roles, globs, `re:`, `type:`, and ranges of layers.

A selector is a role (`attention`, `ffn.down`; see `anatomy`), a glob over module names (`encoder.layer.*.query`;
`*` crosses dots), `re:` and a regular expression that must match the whole name, or `type:` and a class name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from torch import nn

from sparsify.spec import fail, full_match

LONGEST = 200
MOST_REPEATS = 5


def _check(selector: str) -> str:
    """Refuse regular expressions that are broken or could take for ever on a module's name."""
    if not selector.startswith("re:"):
        return selector
    pattern = selector[3:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of sets that will mean something else one day
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise fail(f"{pattern!r} is not a regular expression: {error}") from None
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]", "_", pattern)  # without escapes and character sets
    if re.search(r"\\[1-9]|\(\?[^:]", pattern) or _repeats_a_choice(bare):
        raise fail(f"{pattern!r} may take for ever: no repeated groups that repeat or choose, no look-around")
    if len(re.findall(r"[*+]|\{[0-9]*,", bare)) > MOST_REPEATS:
        raise fail(f"{pattern!r} has more than {MOST_REPEATS} repetitions")
    return selector


def _repeats_a_choice(pattern: str) -> bool:
    """Whether a group that itself repeats or chooses is repeated: the seed of endless backtracking."""
    opened: list[int] = []
    for place, character in enumerate(pattern):
        if character == "(":
            opened.append(place)
        elif character == ")":
            group = pattern[opened.pop() + 1 : place].removeprefix("?:")
            if pattern[place + 1 : place + 2] in ("*", "+", "{") and re.search(r"[*+?{|]", group):
                return True
    return False


Selector = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_check)]

_SELECTOR: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": LONGEST}

Selectors = Annotated[
    tuple[Selector, ...],
    Field(strict=False, min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_SELECTOR, {"type": "array", "minItems": 1, "items": _SELECTOR}]}),
]
"""One selector, or a list of them."""


def matcher(selector: str) -> Callable[[str, nn.Module], bool]:
    """Return whether (name, module) is meant by `selector`; `name` may also be that of a parameter."""
    if selector.startswith("re:"):
        pattern = re.compile(selector[3:])
        return lambda name, module: pattern.fullmatch(name) is not None
    if selector.startswith("type:"):
        kind = selector[5:].strip()
        return lambda name, module: any(cls.__name__ == kind for cls in type(module).__mro__)
    return lambda name, module: fnmatchcase(name, selector)


def names_itself(selector: str) -> bool:
    """Whether a selector that matches a module means that very module, rather than whatever comes along."""
    bare = re.sub(r"(\\?\.)weight$", "", selector)
    return not bare.endswith((".*", ".+") if selector.startswith("re:") else "*")


_RANGE = r"^(0|[1-9][0-9]{0,3})(-(0|[1-9][0-9]{0,3}))?$"
_RANGES: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 0, "maximum": 9999}, {"type": "string", "pattern": _RANGE}]
}


def _layer_range(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 9999:
        return str(value)
    text = value.replace(" ", "") if isinstance(value, str) else ""
    match = full_match(_RANGE, text)
    if match is None:
        raise fail(f"expected layers such as 3 or '0-5', got {value!r}")
    if match[3] is not None and int(match[3]) < int(match[1]):
        raise fail(f"the layers {text!r} run backwards (did you mean '{match[3]}-{match[1]}'?)")
    return text


Layers = Annotated[
    tuple[Annotated[str, BeforeValidator(_layer_range)], ...],
    Field(strict=False, min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else (value,)),
    WithJsonSchema({"anyOf": [*_RANGES["anyOf"], {"type": "array", "minItems": 1, "items": _RANGES}]}),
]
"""A layer, a range of layers with both ends, or a list of them; counted from 0 in every stack."""


def layer_indices(layers: Layers) -> set[int]:
    """Return the indices that ranges of layers mean."""
    ends = [(text.partition("-")[0], text.rpartition("-")[2]) for text in layers]
    return {index for first, last in ends for index in range(int(first), int(last) + 1)}
