"""Questions and their answers in SQuAD's format, and how an answer is compared with them (Rajpurkar et al., 2016)."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsify.errors import DataError
from sparsify.escaping import quoted
from sparsify.train import reading, table


@dataclass(frozen=True)
class Question:
    """A question about a context; none of its answers stands there (SQuAD 2) where there are none."""

    name: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    """(text, place of its first character in the context)"""

    place: str
    """Where it stands in the file."""


def read(source: str, split: str) -> list[Question]:
    """Read SQuAD's JSON, or rows with question, context and answers. Raises DataError, with the place."""
    found = _nested(source) if reading.kind_of(source) == ".json" else None
    found = _rows(source, split) if found is None else found
    if not found:
        raise DataError(f"{source}: there are no questions in it")
    for each in found:
        for text, start in each.answers:
            if each.context[start : start + len(text)] != text:
                here = each.context[start : start + len(text)][:40]
                raise DataError(f"{each.place}: the answer {text[:40]!r} is not at {start}: there is {here!r}")
    return found


def _nested(source: str) -> list[Question] | None:
    """Read `{"data": [{"paragraphs": [{"context": …, "qas": […]}]}]}`; None for another kind of JSON."""
    text = reading.text_of(source)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None  # the reader of tables says what is wrong
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        return None
    made = []
    for a, article in enumerate(data["data"]):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{source}: data[{a}]")):
            for q, entry in enumerate(_list(paragraph, "qas", f"{source}: data[{a}].paragraphs[{p}]")):
                place = f"{source}: data[{a}].paragraphs[{p}].qas[{q}]"
                entry = entry if isinstance(entry, dict) else {}
                made.append(_question({"context": paragraph.get("context"), **entry}, place))
    return made


def _list(value: Any, key: str, place: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{place}: {key!r} is missing, or no list")
    return found


def _rows(source: str, split: str) -> list[Question]:
    rows = table.read(source, split, ["question", "context"])
    for name in ("question", "context", "answers"):
        if name not in rows.columns:
            raise DataError(
                f"{source}: there is no column {name!r}; columns: {', '.join(rows.columns)} (question-answering needs "
                "question, context and answers, a list of {text, answer_start})"
            )
    return [
        _question({name: values[row] for name, values in rows.columns.items()}, rows.place(row))
        for row in range(len(rows))
    ]


def _question(entry: dict[str, Any], place: str) -> Question:
    texts = {name: entry.get(name) for name in ("question", "context")}
    for name, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{place}: {name!r} is missing, or no text")
        reading.check_text(value, place)
    impossible = entry.get("is_impossible")
    if impossible not in (None, True, False):
        raise DataError(f"{place}: 'is_impossible' is {quoted(impossible)}, neither true nor false")
    answers = _answers([] if impossible and entry.get("answers") is None else entry.get("answers"), place)
    if impossible and answers:
        raise DataError(f"{place}: 'is_impossible' is true, but there is an answer, {quoted(answers[0][0], 40)}")
    return Question(str(entry.get("id", place)), str(texts["question"]), str(texts["context"]), answers, place)


def _answers(value: Any, place: str) -> tuple[tuple[str, int], ...]:
    """Return answers from a list of objects, or (as datasets have them) an object of lists."""
    if isinstance(value, dict):
        texts, starts = (value.get(name) for name in ("text", "answer_start"))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"{place}: answers are lists text and answer_start of one length, got {quoted(value)}")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    found = []
    for answer in value if isinstance(value, list) else [None]:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or not text or type(start) is not int or start < 0:
            raise DataError(f"{place}: an answer is {{text, answer_start}}, got {quoted(answer)}")
        found.append((text, start))
    return tuple(found)


# ---------------------------------------------------------------------- comparing


def normal(text: str) -> str:
    """Return an answer without case, punctuation, articles and double spaces, as the official script compares it."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer: str, truth: str) -> float:
    """Return the F1 of the words of two answers; of empty ones, whether both are."""
    mine, theirs = normal(answer).split(), normal(truth).split()
    if not mine or not theirs:
        return float(mine == theirs)
    both = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * both / (len(mine) + len(theirs))


def is_right(answer: str, question: Question) -> bool:
    """Whether an answer is one of a question's, as the official script compares them."""
    return any(normal(answer) == normal(truth) for truth in _truths(question))


def _truths(question: Question) -> list[str]:
    """Return the right answers; an empty one where there is none."""
    return [text for text, _ in question.answers if normal(text)] or [""]


def scores(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Return F1 and exact match, in [0, 1]: the best over each question's answers, the mean over all questions."""
    words, exact = 0.0, 0.0
    for answer, question in zip(answers, questions, strict=True):
        words += max(f1(answer, truth) for truth in _truths(question))
        exact += is_right(answer, question)
    return {"f1": words / len(questions), "exact_match": exact / len(questions)}
