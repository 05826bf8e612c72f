"""The language of selectors: roles, globs, `re:`, `type:`, and ranges of layers.

A selector is a role (`attention`, `ffn.down`; see `anatomy`), a glob over module names (`encoder.layer.*.query`;
`*` crosses dots), `re:` and a regular expression that must match the whole name, or `type:` and a class name.

Regular expressions are those of RE2 (https://github.com/google/re2/wiki/Syntax), everywhere and always: matching takes
time linear in the name, and a pattern that needs too much memory is refused when the recipe is read. There are no
look-arounds and no back-references, and a counted repetition repeats 1,000 times at most. Globs are matched by the same
engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import re2
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from torch import nn

from sparsify.errors import SparsifyError
from sparsify.spec import fail, full_match

LONGEST = 200
MEMORY = 1 << 20
"""Bytes that a compiled pattern and its matching may take."""


class SelectorError(SparsifyError):
    """A regular expression that RE2 does not accept."""


def _check(selector: str) -> str:
    """Refuse what cannot be matched."""
    try:
        _compiled(selector)
    except SelectorError as error:
        raise fail(str(error)) from None
    return selector


@lru_cache(maxsize=1024)
def _compiled(selector: str) -> Any:
    """Return what matches names, for `re:` and globs. Raises SelectorError."""
    is_regex = selector.startswith("re:")
    pattern = selector[3:] if is_regex else _from_glob(selector)
    options = re2.Options()
    options.max_mem, options.log_errors, options.never_capture = MEMORY, False, True
    options.dot_nl = not is_regex
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise SelectorError(f"{pattern!r} is not a regular expression of RE2: {reason}") from None
    except UnicodeEncodeError:
        raise SelectorError(f"{pattern!r} is not a regular expression of RE2: half of a surrogate pair") from None


def _from_glob(glob: str) -> str:
    """Return the regular expression that a glob stands for: `*`, `?`, `[abc]`, `[a-z]`, `[!a-z]`, as in `fnmatch`."""
    found, at = [], 0
    while at < len(glob):
        sign = glob[at]
        at += 1
        if sign == "[" and (close := glob.find("]", at + 1 + (glob[at : at + 1] == "!"))) > 0:
            found.append(_from_set(glob[at:close]))
            at = close + 1
        else:
            found.append({"*": ".*", "?": "."}.get(sign) or _literal(sign))
    return "".join(found)


def _from_set(inside: str) -> str:
    """Return the set of characters between the brackets of a glob; a range that runs backwards is empty."""
    negated = inside.startswith("!")
    rest, parts = inside[negated:], []
    while rest:
        if len(rest) > 2 and rest[1] == "-":
            first, last, rest = rest[0], rest[2], rest[3:]
            parts += [f"{_literal(first)}-{_literal(last)}"] if first <= last else []
        else:
            parts.append(_literal(rest[0]))
            rest = rest[1:]
    if not parts:
        return "." if negated else "[^\\x{0}-\\x{10FFFF}]"
    return f"[{'^' * negated}{''.join(parts)}]"


def _literal(character: str) -> str:
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"


Selector = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_check)]

_SELECTOR: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": LONGEST,
    "description": "A role, a glob over names, `re:` and a regular expression of RE2 that matches whole names, "
    "or `type:` and a class.",
}

Selectors = Annotated[
    tuple[Selector, ...],
    Field(strict=False, min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [_SELECTOR, {"type": "array", "minItems": 1, "items": _SELECTOR}]}),
]
"""One selector, or a list of them."""


def matcher(selector: str) -> Callable[[str, nn.Module], bool]:
    """Return whether (name, module) is meant by `selector`; `name` may also be that of a parameter.

    Raises SelectorError for a regular expression that RE2 does not accept.
    """
    if selector.startswith("type:"):
        kind = selector[5:].strip()
        return lambda name, module: any(cls.__name__ == kind for cls in type(module).__mro__)
    pattern = _compiled(selector)
    return lambda name, module: _matches(pattern, name)


def _matches(pattern: Any, name: str) -> bool:
    try:
        return pattern.fullmatch(name) is not None
    except UnicodeEncodeError:  # a name with half of a surrogate pair, which no pattern means
        return False


def names_itself(selector: str) -> bool:
    """Whether a selector that matches a module means that very module, rather than whatever comes along."""
    bare = re.sub(r"(\\?\.)weight$", "", selector)
    return not bare.endswith((".*", ".+") if selector.startswith("re:") else "*")


def names_a_parameter(selector: str) -> bool:
    """Whether a selector ends in the very name of a parameter (`*.mix`); `weight` counts only in a whole name."""
    if selector.startswith(("re:", "type:")):
        return False
    last = selector.rpartition(".")[2]
    return not re.search(r"[*?\[]", last) and (last != "weight" or not re.search(r"[*?\[]", selector))


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


LAYERS: dict[str, Any] = {"anyOf": [*_RANGES["anyOf"], {"type": "array", "minItems": 1, "items": _RANGES}]}

Layers = Annotated[
    tuple[Annotated[str, BeforeValidator(_layer_range)], ...],
    Field(strict=False, min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else (value,)),
    WithJsonSchema(LAYERS),
]
"""A layer, a range of layers with both ends, or a list of them; counted from 0 in every stack."""


def layer_indices(layers: Layers) -> set[int]:
    """Return the indices that ranges of layers mean."""
    ends = [(text.partition("-")[0], text.rpartition("-")[2]) for text in layers]
    return {index for first, last in ends for index in range(int(first), int(last) + 1)}
