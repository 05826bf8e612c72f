"""What is kept of an evaluation: a prediction for each row, word or question, in the order of the data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsify.spans import Window
from sparsify.train.answering import Measure as Answers
from sparsify.train.labels import Labels
from sparsify.train.predictions import Remembering, of_rows
from sparsify.train.squad import Question
from sparsify.train.tokens import Measure as Tags


def prediction(predictions: Any, labels: Any) -> Any:
    return SimpleNamespace(predictions=predictions, label_ids=np.array(labels))


def test_classes_go_back_to_their_rows() -> None:
    """Row 2 was evaluated first, then row 0, then row 1."""
    logits = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = of_rows(prediction(logits, [1, 1, 1]), labels=Labels(("no", "yes")), order=[2, 0, 1], sha256="a")
    assert found is not None
    assert found.values() == ["no", "yes", "yes"]
    assert found.right == [0, 1, 1]


def test_numbers_keep_what_float32_has() -> None:
    found = of_rows(prediction(np.array([[0.1], [2.0]], dtype="float32"), [0, 1]), labels=None, order=None, sha256="a")
    assert found is not None
    assert found.predicted == [0.1, 2.0]
    assert found.right == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_not_kept(value: float) -> None:
    assert of_rows(prediction(np.array([[1.0], [value]]), [0, 1]), labels=None, order=None, sha256="a") is None


def test_tags_are_those_of_labelled_words() -> None:
    found = Tags(Labels(("O", "B-X"))).predicted(
        prediction(np.array([[0, 1, 1], [1, 0, 0]]), [[0, 1, -100], [0, -100, -100]]), sha256="a"
    )
    assert found.values() == ["O", "B-X", "B-X"]
    assert found.right == [1, 1, 0]
    assert found.unit == "words"


def test_answers_are_compared_with_all_right_ones() -> None:
    question = Question("q", "who?", "Ada met Bob", (("Ada Lovelace", 0), ("ada", 0)), "here")
    window = Window(0, {}, [None, (0, 3), (4, 7), (8, 11)], null=0)
    start, end = np.array([[0.0, 5.0, 0.0, 0.0]]), np.array([[0.0, 5.0, 0.0, 0.0]])
    found = Answers([question], [window]).predicted(prediction((start, end), [0]), sha256="a")
    assert (found.predicted, found.right, found.unit) == (["Ada"], [1], "questions")


def test_the_last_prediction_is_remembered() -> None:
    kept = Remembering(lambda given: {"accuracy": float(given)})
    assert kept(0.5) == {"accuracy": 0.5}
    assert kept(0.75) == {"accuracy": 0.75}
    assert kept.last == 0.75
