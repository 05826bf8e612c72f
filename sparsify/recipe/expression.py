"""`${…}`: bounded arithmetic over declared variables. No attribute, call, index or name beyond them.

Python's own parser reads the text; only the node types named here are ever evaluated.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from sparsify.errors import did_you_mean

Value = str | int | float | bool

LONGEST = 200
LONGEST_TEXT = 1 << 20
TOO_LONG = f"with the values of its variables the recipe has more than {LONGEST_TEXT} characters"
LARGEST = 10**15
HIGHEST_POWER = 64

PATTERN = re.compile(r"\$\{([^{}]*)\}")

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"max": max, "min": min, "round": round}


class ExpressionError(ValueError):
    """An expression that cannot be read or evaluated; `unknown` is the variable that it misses, if that is why."""

    def __init__(self, message: str, unknown: str | None = None) -> None:
        super().__init__(message)
        self.unknown = unknown


def has_expression(text: str) -> bool:
    """Whether `text` contains `${`."""
    return "${" in text


def substitute(text: str, variables: Mapping[str, Value], room: int = LONGEST_TEXT) -> Value:
    """Return `text` with its expressions evaluated: a value if it is one expression, else a string.

    Raises ExpressionError, also where the result would have more than `room` characters.
    """
    whole = PATTERN.fullmatch(text)
    if whole:
        return evaluate(whole[1], variables)
    if "${" in PATTERN.sub("", text):
        raise ExpressionError("`${` without its `}`")
    parts: list[str] = []
    for index, part in enumerate(PATTERN.split(text)):  # text and expressions take turns
        parts.append(_text(evaluate(part, variables)) if index % 2 else part)
        room -= len(parts[-1])
        if room < 0:
            raise ExpressionError(TOO_LONG)
    return "".join(parts)


def _text(value: Value) -> str:
    return format(value, ".12g") if isinstance(value, float) else str(value)


def evaluate(text: str, variables: Mapping[str, Value]) -> Value:
    """Evaluate one expression (without `${}`). Raises ExpressionError, never anything else."""
    if len(text) > LONGEST:
        raise ExpressionError(f"an expression of more than {LONGEST} characters")
    if not text.strip():
        raise ExpressionError("an empty expression")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ExpressionError(f"{text.strip()!r} is not arithmetic") from None
    if isinstance(tree.body, ast.Name):
        return _variable(tree.body.id, variables)
    return _number(tree.body, variables)


def _variable(name: str, variables: Mapping[str, Value]) -> Value:
    if name not in variables:
        raise ExpressionError(f"unknown variable {name!r}{did_you_mean(name, variables)}", unknown=name)
    return variables[name]


def _number(node: ast.expr, variables: Mapping[str, Value]) -> int | float:
    """Evaluate a node to a bounded number."""
    return _bounded(_compute(node, variables))


def _compute(node: ast.expr, variables: Mapping[str, Value]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        value = _variable(node.id, variables)
        if isinstance(value, (str, bool)):
            raise ExpressionError(f"the variable {node.id!r} is not a number")
        return value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _number(node.operand, variables)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _number(node.left, variables), _number(node.right, variables)
        if isinstance(node.op, ast.Pow) and abs(right) > HIGHEST_POWER:
            raise ExpressionError(f"a power above {HIGHEST_POWER}")
        return _apply(_BINARY[type(node.op)], left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            hint = did_you_mean(node.func.id, _FUNCTIONS)
            raise ExpressionError(f"unknown function {node.func.id!r}{hint}")
        return _apply(_FUNCTIONS[node.func.id], *(_number(argument, variables) for argument in node.args))
    raise ExpressionError("only numbers, variables, + - * / // % **, parentheses, min, max and round are allowed")


def _apply(function: Callable[..., Any], *arguments: int | float) -> Any:
    try:
        return function(*arguments)
    except ZeroDivisionError:
        raise ExpressionError("a division by zero") from None
    except OverflowError:
        raise ExpressionError(f"a result beyond ±{LARGEST:.0e}") from None
    except (TypeError, ValueError):
        raise ExpressionError(f"wrong arguments for {function.__name__!r}") from None


def _bounded(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError("a result that is no real number")
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ExpressionError(f"a result beyond ±{LARGEST:.0e}")
    return value
