"""Answers as spans of a context: windows over it, and the best span of all windows by the logits of starts and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sparsify import progress

BEST = 20
"""Starts and ends that are tried in each window."""
LONGEST = 30
"""Tokens of an answer, as in Devlin et al. (2019) and the scripts that followed."""

Offsets = Sequence[tuple[int, int] | None]
"""Of every token of a context, its characters; None elsewhere."""


class Asked(Protocol):
    """A question about a context."""

    @property
    def question(self) -> str:
        """The question."""
        ...

    @property
    def context(self) -> str:
        """What it is about."""
        ...


@dataclass(frozen=True)
class Window:
    """A part of a context, with its question before (or, where a model pads on the left, after) it."""

    question: int
    inputs: dict[str, Any]
    offsets: Offsets
    null: int
    """The token whose start and end say that there is no answer."""


@dataclass(frozen=True)
class Span:
    """An answer in a window: the sum of two logits, tokens from `start` to `end`, characters from `first` to `last`."""

    score: float
    window: int
    start: int
    end: int
    first: int
    last: int
    """The first character behind it."""


@dataclass(frozen=True)
class Found:
    """What all windows of a question say."""

    span: Span | None
    """The best answer; None where no window has one."""

    nothing: float
    """The score of saying nothing: the least of all windows."""

    emptiest: int
    """The window that it is of."""


def windows(tokenizer: Any, questions: Sequence[Asked], most: int, stride: int) -> list[Window]:
    """Return windows of at most `most` tokens that share `stride` tokens of the context with the one before.

    The tokenizer is a fast one. It raises where a question and `stride` leave no room.
    """
    made = []
    after = tokenizer.padding_side == "right"
    for number, one in enumerate(progress.each("cutting contexts into windows", questions)):
        texts = (one.question.lstrip(), one.context) if after else (one.context, one.question.lstrip())
        encoded = tokenizer(
            *texts,
            truncation="only_second" if after else "only_first",
            max_length=most,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = [name for name in encoded if name not in ("offset_mapping", "overflow_to_sample_mapping")]
        for part in range(len(encoded["input_ids"])):
            sides = encoded.sequence_ids(part)
            spans = zip(sides, encoded["offset_mapping"][part], strict=True)
            offsets = [tuple(span) if side == int(after) and span[1] > span[0] else None for side, span in spans]
            ids = encoded["input_ids"][part]
            null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
            made.append(Window(number, {name: encoded[name][part] for name in names}, offsets, null))
    return made


def batch(tokenizer: Any, rows: Sequence[dict[str, Any]]) -> Any:
    """Return rows as tensors, padded behind their last token, on whichever side the tokenizer pads otherwise.

    Starts and ends count from the first token, so that padding before it would move them.
    """
    return tokenizer.pad(list(rows), padding_side="right", return_tensors="pt")


def best(made: Sequence[Window], starts: Any, ends: Any, longest: int = LONGEST) -> dict[int, Found]:
    """Return what was found for each question, from logits of NumPy [windows, tokens] (padded, or a list of rows)."""
    found: dict[int, Found] = {}
    for place, (window, start, end) in enumerate(zip(made, starts, ends, strict=True)):
        null = float(start[window.null] + end[window.null])
        size = len(window.offsets)
        new = Found(span(start[:size], end[:size], window.offsets, place, longest), null, place)
        old = found.get(window.question)
        found[window.question] = new if old is None else _better(old, new)
    return found


def _better(old: Found, new: Found) -> Found:
    spans = [each.span for each in (old, new) if each.span is not None]
    emptiest = new if new.nothing < old.nothing else old
    return Found(max(spans, key=lambda each: each.score, default=None), emptiest.nothing, emptiest.emptiest)


def span(start: Any, end: Any, offsets: Offsets, window: int = 0, longest: int = LONGEST) -> Span | None:
    """Return the best answer in a window, from logits of NumPy [tokens]; None where there is none."""
    firsts, lasts = (
        [int(i) for i in logits.argsort()[::-1] if offsets[int(i)] is not None][:BEST] for logits in (start, end)
    )
    pairs = [(float(start[i] + end[j]), i, j) for i in firsts for j in lasts if i <= j < i + longest]
    if not pairs:
        return None
    score, i, j = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
    return Span(score, window, i, j, offsets[i][0], offsets[j][1])  # type: ignore[index]
