"""Text from recipes, files and data on its way to people: no control characters, bounded length.

The one place for it. `visible` keeps lines and tabs, `one_line` does not; errors, terminals, pictures and pages use it.
What never gets through: control characters (ESC, CR, …), marks that change the direction of writing, invisible
characters, and halves of surrogate pairs. They are written as Python would write them in a string: `\\x1b`.
"""

from __future__ import annotations

import re
from html import escape

LONGEST_LINE = 2000
MOST_LINES = 5000

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """Return `text` with every unsafe character written as an escape; lines and tabs stay."""
    return _UNSAFE.sub(_escape, text)


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Return `text` on one line, of `longest` characters at most; what is cut out of its middle is an ellipsis."""
    short = cut(text, longest)
    return cut(visible(short).replace("\n", "\\n").replace("\t", "\\t"), longest)


def is_text(text: str) -> bool:
    """Whether a string can be written: it holds no half of a surrogate pair."""
    return _SURROGATE.search(text) is None


def joined(text: str) -> str:
    """Return `text` with the two halves of a character beyond U+FFFF, as JSON writes it, made one."""
    return text if is_text(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def quoted(value: object, longest: int = 60) -> str:
    """Return a value as an error quotes it: as Python writes it, cut short."""
    if isinstance(value, str):
        value = cut(value, longest)
    try:
        return visible(cut(repr(value), longest))
    except ValueError:
        return "a number of thousands of digits"


def cut(text: str, longest: int) -> str:
    """Return `text`, or its beginning and its end where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    tail = longest // 4
    return f"{text[: longest - tail - 1]}…{text[len(text) - tail :]}"


def message(text: str) -> str:
    """Return the text of an error, fit for a terminal: visible, and with bounded lines."""
    lines = text.split("\n", MOST_LINES)
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], "…"]
    return "\n".join(visible(cut(line, LONGEST_LINE)) for line in lines)


def html(text: str) -> str:
    """Return `text` for an HTML page."""
    return escape(visible(text))


def json_text(text: str) -> str:
    """Return JSON text with unsafe characters, which JSON has in strings only, written as JSON's own escapes."""
    return _UNSAFE.sub(_json_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json_escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
