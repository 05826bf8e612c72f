"""Predictions side by side: counted by hand, matched by row, and never between evaluations that differ."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from sparsify.errors import StateError
from sparsify.report.predictions import Agreement, Distance, Predictions, compare, read_predictions


def labels(predicted: list[int], right: list[int], names: str = "no yes", **fields: Any) -> Predictions:
    given = {"kind": "labels", "sha256": "a", "names": names.split(), "predicted": predicted, "right": right}
    return Predictions(**{**given, **fields})


def test_agreement_as_counted_by_hand() -> None:
    found = compare(labels([0, 1, 1, 0, 1], [1, 1, 1, 0, 0]), labels([0, 1, 0, 0, 0], [1, 1, 0, 0, 1]))
    assert found == Agreement(5, "rows", same=3, both_right=2, only_before=1, only_after=1)
    assert str(found) == (
        "the same prediction for 60.0% of 5 rows; both right on 2, only A on 1, only B on 1 (sign test: p = 1)"
    )


def test_labels_are_matched_by_name() -> None:
    """Two models may number the same labels in two ways."""
    found = compare(labels([0, 1, 1], [1, 1, 1]), labels([1, 0, 0], [1, 1, 1], names="yes no"))
    assert isinstance(found, Agreement)
    assert found.same == 3


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 11), (11, 3), (250, 190), (40_000, 40_100)])
def test_the_sign_test_is_the_exact_one(before: int, after: int) -> None:
    found = Agreement(10**6, "rows", 0, 0, before, after).by_chance()
    expected = binomtest(before, before + after).pvalue if before + after else 1.0
    assert found == pytest.approx(expected, rel=1e-6)


def test_answers_are_compared_as_words() -> None:
    texts = [
        Predictions(kind="texts", unit="questions", sha256="a", predicted=predicted, right=[1, 0])
        for predicted in (["New  York", ""], ["new york", "x"])
    ]
    found = compare(*texts)
    assert isinstance(found, Agreement)
    assert (found.same, found.unit) == (1, "questions")


def test_numbers_are_compared_by_distance() -> None:
    first = Predictions(kind="numbers", sha256="a", predicted=[1.0, 2.0, 4.0])
    second = Predictions(kind="numbers", sha256="a", predicted=[1.5, 2.0, 3.5])
    found = compare(first, second)
    assert isinstance(found, Distance)
    assert found.mean == pytest.approx(1 / 3)
    assert found.pearson == pytest.approx(57 / 18 / (42 / 9 * 78 / 36) ** 0.5)
    constant = compare(first, Predictions(kind="numbers", sha256="a", predicted=[1.0, 1.0, 1.0]))
    assert isinstance(constant, Distance)
    assert constant.pearson is None


@pytest.mark.parametrize("other", [{"sha256": "b"}, {"unit": "words"}, {"predicted": [0], "right": [1]}])
def test_other_rows_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="not evaluated on the same rows"):
        compare(labels([0, 1], [1, 1]), labels(**{"predicted": [0, 1], "right": [1, 1], **other}))


WHOLE = {"format": 1, "kind": "labels", "sha256": "a", "names": ["no", "yes"], "predicted": [0, 1], "right": [1, 1]}
WRONG = [
    {"predicted": [0, 2]}, {"predicted": [0, -1]}, {"predicted": ["a", "b"]}, {"right": [1]}, {"right": [1, 2]},
    {"kind": "numbers"}, {"kind": "texts"}, {"kind": "x"}, {"format": 2}, {"names": None}, {"predicted": [0.5, math.inf]},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG)
def test_damaged_files_are_named(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    assert read_predictions(path) is None
    path.write_text(json.dumps(WHOLE))
    assert read_predictions(path) is not None
    path.write_text(json.dumps({**WHOLE, **change}))
    with pytest.raises(StateError, match=r"predictions\.json is not as predictions are written"):
        read_predictions(path)
