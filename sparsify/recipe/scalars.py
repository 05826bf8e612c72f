"""Plain scalars as the YAML 1.2 core schema reads them; what is no finite, sensible number is refused."""

from __future__ import annotations

import re

from sparsify.escaping import is_text
from sparsify.recipe.nodes import Scalar

LONGEST_NUMBER = 40

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_scalar(text: str) -> Scalar:
    """Read one value as it would be read in a recipe (`--set key=value`). Raises ValueError."""
    if not is_text(text):
        raise ValueError("half of a surrogate pair is no text")
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return scalar(text)


def key(text: str) -> Scalar:
    """Read a plain key; what is not a finite number stays a string."""
    try:
        return scalar(text)
    except ValueError:
        return None


def scalar(text: str) -> Scalar:
    """Resolve a plain scalar by the YAML 1.2 core schema; refuse what is no finite, sensible number."""
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if len(text) > LONGEST_NUMBER and any(form.fullmatch(text) for form in (_INT, _FLOAT, _OCTAL, _HEX)):
        raise ValueError(f"a number of more than {LONGEST_NUMBER} characters")
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large a number")
        return number
    return text
