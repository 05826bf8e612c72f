"""Grammars of hostile and odd input, for the fuzzer: each makes one input from a random number generator."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from typing import Any

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
NASTY = "[/red][bold]$\\frac{$ \x1b[31m\x9b2J\r\x07\u202eabc\u2066\ud800\x00<b>&\u200b\\[x"
"""A text that would open markup, a formula or a tag, steer a terminal, and cannot be encoded."""

MARKUP = [
    "[/red]", "[bold", "[bold]", "[/]", "[link=x]", "\\[", "\\", "[", "]", "$\\frac{$", "$", "$$", "_x", "^", "{", "}", "{0}", "%s", "%(x)s",
    "<script>", "&amp;", "</pre>", "\x1b[31m", "\x1b]0;x\x07", "\x9b2J", "\r", "\n", "\t", "\x07", "\x00", "\x7f", "\x85", "\ud800", "\udfff",
    "\ud83d\ude00", "😀", "👩\u200d💻", "日本語", "é", "e\u0301", "\u2028", "\u2029", "\ufeff", "\ufffe", "\xa0", "\u200b", ":smile:", "'", '"', "`",
    "${s}", "${", "}", "..", "/", "~", "-", "--x", "", " ", "null", "true", "x" * 300, "?" * 90, *BIDI,
]  # fmt: skip
REGEX = [
    "(a+)+", "(a|a)*", "(a|aa)+$", ".*", ".+", "(.*)*", "(?:", "(?=", "(?!", "(?<=", "(?P<n>", "(?i)", "(?s)", "\\1", "\\d", "\\D", "\\w", "\\b",
    "\\pL", "\\p{Greek}", "\\C", "\\Q", "\\E", "\\x{10FFFF}", "\\x", "\\", "[", "]", "[^", "[a-z]", "[z-a]", "[[:alpha:]]", "[]a]", "{1000}",
    "{1001}", "{30}", "{,}", "{0,1000}", "*", "+", "?", "|", "(", ")", "^", "$", "a", "layer", "\\.", "\ud800", "é", "\0", "\n", "*a" * 20,
]  # fmt: skip
NUMBERS = [
    "0", "-0", "1", "-1", "0777", "0o17", "0o8", "0x1F", "0xG", "0b1", "1_000", "1e5", "1e-400", "1e400", "-1e308", "9" * 15, "9" * 39, "9" * 41,
    "9" * 5000, "0x" + "f" * 60, "0o" + "7" * 60, ".5", "5.", ".", "+.inf", ".nan", "-.INF", "1.0", "0.30000000000000004", "1e15", "1000000000000000",
    "10%", "100%", "101%", "0%", "5 steps", "0 steps", "1 step", "2.5 epochs", "0 epochs", "999999999 epochs", "-5%", "5  steps", "1e3 steps",
    "true", "null", "~", "2:4", "4:2", "0:0", "99999999999:1", "existing", "one-shot", "constant",
]  # fmt: skip
EXPRESSIONS = [
    "s", "t", "s / 2", "s ** 64", "9 ** 9 ** 9", "-" * 90 + "s", "(" * 90, "min(s, 1)", "max()", "round(s, 10 ** 15)", "round(s)", "1 / 0", "s // 0", "s % 0",
    "1j", "'a' * 9", "[1]", "s.x", "s[0]", "f(s)", "lambda: 1", "s if s else 1", "not s", "~s", "1 << 9", "0x10", "0o7", "1_0", "1e999", "\\", "#", "",
    " ", "s\n", "é", "\u202e", "None", "True", "...", "s:=1", "*s", "min(*s)", "min(s=1)", "9" * 200, "9" * 199, "u", "type",
]  # fmt: skip


def harmless(text: str) -> bool:
    """Whether no character of a text could steer a terminal, by Unicode's own tables."""
    return all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in text) and not set(text) & set(BIDI)


def some(chance: random.Random, words: list[str], most: int = 5) -> str:
    """Return a few of the words, one after the other."""
    return "".join(chance.choice(words) for _ in range(chance.randint(1, most)))


def nasty(chance: random.Random) -> str:
    """Return text that is anything but plain."""
    return some(chance, MARKUP, 4) * chance.choice([1, 1, 1, 1, 50])


def selector(chance: random.Random) -> str:
    """Return a selector, most of them hostile."""
    kind = chance.randrange(5)
    if kind == 0:
        return "re:" + some(chance, REGEX, 8)
    if kind == 1:
        return some(chance, ["*", "?", "[", "]", "!", "-", "a", ".", "layer", "*a" * 30], 8)
    return ["attention", "*", "type:" + nasty(chance), nasty(chance)][kind - 2 if kind < 4 else chance.choice([1, 3])]


def quoted(chance: random.Random, text: str) -> str:
    """Return text as a YAML scalar: as JSON writes it, in quotes, or bare."""
    kind = chance.randrange(4)
    if kind == 0:
        return text.replace("\n", " ") or '""'
    if kind == 1:
        return "'" + text.replace("'", "''") + "'"
    return json.dumps(text, ensure_ascii=bool(kind % 2))


def value(chance: random.Random) -> str:
    """Return what may stand where a number or a duration should."""
    kind = chance.randrange(8)
    if kind == 0:
        return quoted(chance, "${" + chance.choice(EXPRESSIONS) + "}")
    if kind == 1:
        return quoted(
            chance,
            "".join(f"${{{chance.choice(EXPRESSIONS)}}}{chance.choice(['', '%', ' steps', 'x'])}" for _ in range(2)),
        )
    if kind == 2:
        return chance.choice(["*a", "*b", "[]", "{}", "[*a, *a]", "{x: *b}", "&c 1", "!!int 3", "<<", "? x", "|\n  x"])
    if kind == 3:
        return chance.choice(["[", "{a: ", "- "]) * chance.choice([1, 3, 70, 3000])
    return chance.choice(NUMBERS)


def good(chance: random.Random) -> str:
    """Return what may well stand where a number or a duration should."""
    return chance.choice(["0.5", "0.9", '"${s}"', '"${s / 2}"', "10%", "80%", "5", "100 steps", "2 epochs", "1"])


def recipe(chance: random.Random) -> bytes:
    """Return a recipe with hostile values at some places and sound ones at the others."""
    risk = chance.choice([0.01, 0.03, 0.1, 0.5])

    def number() -> str:
        return value(chance) if chance.random() < risk else good(chance)

    def text(plain: str) -> str:
        return quoted(chance, nasty(chance)) if chance.random() < risk else plain

    def targets() -> str:
        return quoted(chance, selector(chance)) if chance.random() < max(risk, 0.2) else '"*"'

    def modifier() -> str:
        others = ("penalty", "fill", "regrow", "freeze", "learning_rate")
        kind = chance.choice(["prune", "prune", "prune", chance.choice(others), text("prune")])
        keys = [f"type: {kind}", f"targets: {targets()}"]
        if kind == "penalty":
            keys.append(f"strength: {number()}")
        elif kind in ("freeze", "learning_rate"):
            keys = [*keys[: 1 if kind == "learning_rate" else 2], f"begin: {number()}", f"end: {number()}"]
        elif kind != "fill":
            ramp = f"{{from: {number()}, to: {number()}, curve: {text('cubic')}}}"
            keys.append(f"sparsity: {chance.choice([number(), ramp])}")
        if chance.random() < 0.6 and kind not in ("fill", "freeze", "learning_rate"):
            keys.append(f"window: {{begin: {number()}, end: {number()}, every: {number()}}}")
        if chance.random() < 0.2:
            keys.append(f"{text('exclude')}: [{targets()}, {targets()}]")
        if chance.random() < 0.2:
            keys.append(f"name: {text('mine')}")
        return "{" + ", ".join(keys) + "}"

    lines = ["version: 1", f"name: {text('fuzzed')}", f"summary: {text('one')}"]
    lines += [f"variables: {{s: {{value: {number()}, description: {text('x')}}}, t: &a {text('x')}}}"]
    if chance.random() < risk:
        lines.append(f"about: &b {{authors: [{text('me')}, *a], task: {text('t')}}}")
    if chance.random() < risk:
        lines.append(f"bindings: {{{chance.choice(['teacher', 'epochs', 'model', text('x')])}: {{}}}}")
    if chance.random() < risk / 4:
        lines.append(
            f"extends: {chance.choice(['gmp', text('gmp'), 'loop.yaml', 'pipe.yaml', '../x.yaml', 'fuzzed.yaml', '/dev/zero'])}"
        )
    if chance.random() < 0.3:
        lines.append("stages:")
        for index in range(chance.randint(1, 3)):
            lines += [f"  - name: {text(f's{index}')}", f"    length: {number()}", f"    modifiers: [{modifier()}]"]
    else:
        lines += ["modifiers:", *(f"  - {modifier()}" for _ in range(chance.randint(1, 3)))]
    return "\n".join(lines).encode("utf-8", chance.choice(["surrogatepass", "replace"]))


def leaf(chance: random.Random) -> Any:
    """Return a value that JSON can hold and that is seldom the right one."""
    return chance.choice(
        [None, True, 0, -1, 3, 10**15, 10**30, 10**4000, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", nasty(chance), [], {}, [[]],
         {"a": 1}, {nasty(chance): nasty(chance)}, [1] * 50, ["x", None]]
    )  # fmt: skip


def changed(chance: random.Random, data: Any) -> Any:
    """Return plain data with a few places replaced, renamed or deleted."""
    data = json.loads(json.dumps(data))
    for _ in range(chance.randint(1, 3)):
        node, above, key = data, None, None
        while isinstance(node, (dict, list)) and node and chance.random() < 0.8:
            above, key = node, chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
            node = node[key]
        if above is None:
            data = leaf(chance)
        elif chance.random() < 0.15:
            del above[key]
        elif chance.random() < 0.15 and isinstance(above, dict):
            above[nasty(chance)] = above.pop(key)
        else:
            above[key] = leaf(chance)
    return data


def json_bytes(chance: random.Random, data: Any) -> bytes:
    """Return changed data as JSON, seldom as something that is none."""
    if chance.random() < 0.1:
        return chance.choice(
            [
                b"",
                b"{",
                b"[" * 100_000,
                b'{"a":' * 2_000,
                b"9" * 5000,
                b"nul",
                b"\xff\xfe",
                b'"\\ud800"',
                b"[" * 200 + b"]" * 200,
            ]
        )
    try:
        return json.dumps(changed(chance, data)).encode()
    except ValueError:  # a number of thousands of digits
        return b"1" * 5000


Mutate = Callable[[random.Random, bytes], bytes]


def flipped(chance: random.Random, raw: bytes) -> bytes:
    """Return bytes with some flipped, cut, repeated or put in; seldom none."""
    if chance.random() < 0.05:
        return raw
    for _ in range(chance.choice([1, 1, 2, 5])):
        at, to = sorted((chance.randint(0, len(raw)), chance.randint(0, len(raw))))
        kind = chance.randrange(5)
        if kind == 0:
            raw = raw[:at] + raw[to:]
        elif kind == 1 and raw:
            at = min(at, len(raw) - 1)
            raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        elif kind == 2:
            raw = raw[:at]
        elif kind == 3:
            raw = raw[:at] + chance.randbytes(chance.choice([1, 8])) + raw[at:]
        else:
            raw = raw[:to] + raw[at : at + 64] + raw[to:]
    return raw
