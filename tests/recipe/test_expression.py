"""Expressions: arithmetic, and nothing else."""

from __future__ import annotations

import ast
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify.recipe.expression import LARGEST, ExpressionError, evaluate, substitute
from tests.drawn import examples


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("-a", -0.8),
        ("-(-2) ** 2", -4),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("1 / 4", 0.25),
        ("2 ** 10", 1024),
        ("max(a, 0.9)", 0.9),
        ("min(1, 2, a)", 0.8),
        ("round(2.5)", 2),
        ("round(a * 1.234, 2)", 0.99),
        ("min(max(a, 0), 1) + (0)", 0.8),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    result = evaluate(text, {"a": 0.8})
    assert result == pytest.approx(value)
    assert isinstance(result, int) == isinstance(value, int)


def test_a_lone_variable_keeps_its_type() -> None:
    assert substitute("${name}", {"name": "encoder"}) == "encoder"
    assert substitute("${flag}", {"flag": True}) is True
    assert substitute("${n} steps of ${name}", {"n": 3, "name": "x"}) == "3 steps of x"
    assert substitute("${a * 100}%", {"a": 0.07}) == "7%"


TREES = st.recursive(
    st.integers(0, 20).map(str) | st.floats(0, 20, allow_nan=False).map(lambda x: format(x, ".3f")),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=6,
)

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def reference(node: ast.expr) -> float:
    """Evaluate as Python would."""
    if isinstance(node, ast.Constant):
        return node.value  # type: ignore[return-value]
    assert isinstance(node, ast.BinOp)
    return OPERATORS[type(node.op)](reference(node.left), reference(node.right))  # type: ignore[no-any-return,operator]


@given(TREES)
@examples(300)
def test_results_are_python_s(text: str) -> None:
    try:
        expected = reference(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        expected = None
    try:
        assert evaluate(text, {}) == expected
    except ExpressionError as error:
        assert expected is None or abs(expected) > LARGEST or "characters" in str(error)


@given(st.text(st.sampled_from("0123456789ab.+-*/%()[]{}',:=<>_ minmaxroundlambdaforif\n\\@!#;\""), max_size=60))
@examples(800)
def test_any_text_gives_a_number_or_our_error(text: str) -> None:
    try:
        value = evaluate(text, {"a": 2, "b": 0.5})
    except ExpressionError:
        return
    assert isinstance(value, (int, float))
    assert abs(value) <= LARGEST
