"""Question answering in the style of transformers' pipelines, which have none for it since version 5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparsify.errors import DataError, PlanError
from sparsify.pretrained import positions
from sparsify.spans import LONGEST, Found, Window, batch, best, windows

FIELDS = ("question", "context")
TOKENS, SHARED = 384, 128
"""Of a window, and those that two windows share, where nothing else is said: as in Devlin et al. (2019)."""

BATCH = 8


@dataclass(frozen=True)
class Question:
    """A question about a context."""

    question: str
    context: str


class QuestionAnswering:
    """A model with a start and an end for the answer, as a function from questions to answers."""

    task = "question-answering"

    def __init__(self, model: nn.Module, tokenizer: Any, *, batch_size: int = BATCH) -> None:
        """Take a model and its fast tokenizer; `batch_size` windows are run together. Raises PlanError."""
        if not getattr(tokenizer, "is_fast", False):
            raise PlanError("question answering needs a fast tokenizer: this one does not say where its tokens stand")
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        if tokenizer.pad_token is None:  # batches need one; masked out, it changes nothing
            tokenizer.pad_token = tokenizer.eos_token

    def __call__(
        self,
        inputs: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        handle_impossible_answer: bool = False,
        max_seq_len: int = TOKENS,
        doc_stride: int = SHARED,
        max_answer_len: int = LONGEST,
    ) -> Any:
        """Return `{"score", "start", "end", "answer"}` for a question, a list for a list.

        Questions are mappings with `question` and `context`, or come as `question=…, context=…` (two strings, or two
        lists as long). `answer` is `context[start:end]`; `score` the probability of its start times that of its end,
        among the tokens of its window. Contexts longer than `max_seq_len` tokens with their question (or than the model
        has positions for) are cut into windows that share `doc_stride` tokens. An answer has at most `max_answer_len`
        tokens. With `handle_impossible_answer` it is empty where saying nothing scores higher, as in SQuAD 2; else only
        where there is no span at all. Raises DataError for other inputs, and for a question that leaves no room.
        """
        asked, one = _questions(inputs, question, context)
        made, starts, ends = self._logits(asked, max_seq_len, doc_stride, batch_size or self.batch_size)
        found = best(made, starts, ends, max_answer_len)
        answers = [
            _answer(each, found.get(number), made, starts, ends, handle_impossible_answer)
            for number, each in enumerate(asked)
        ]
        return answers[0] if one else answers

    def window(self, most: int = TOKENS) -> int:
        """Return how many tokens a window has, of at most so many."""
        return min(most, positions(getattr(self.model, "config", None)) or most)

    @torch.inference_mode()
    def _logits(
        self, asked: Sequence[Question], most: int, shared: int, size: int
    ) -> tuple[list[Window], list[Any], list[Any]]:
        """Return all windows with their logits, rows of NumPy as long as the window is."""
        made: list[Window] = []
        for number, each in enumerate(asked):
            made += [
                Window(number, window.inputs, window.offsets, window.null) for window in self._cut(each, most, shared)
            ]
        starts: list[Any] = []
        ends: list[Any] = []
        for first in range(0, len(made), size):
            part = made[first : first + size]
            outputs = self.model(**batch(self.tokenizer, [window.inputs for window in part]))
            for rows, logits in ((starts, outputs.start_logits), (ends, outputs.end_logits)):
                for window, row in zip(part, logits.float(), strict=True):
                    rows.append(row[: len(window.offsets)].numpy())
        return made, starts, ends

    def _cut(self, asked: Question, most: int, shared: int) -> list[Window]:
        """Return the windows of a question. Raises DataError where it leaves no room for its context."""
        longest = self.window(most)
        taken = len(self.tokenizer(asked.question.lstrip(), "", verbose=False)["input_ids"])
        room = longest - taken
        if room < 1:
            raise DataError(
                f"a question of {taken:,} tokens with its separators leaves no room for its context in windows of "
                f"{longest:,}"
            )
        return windows(self.tokenizer, [asked], longest, min(shared, room // 2))


def _questions(inputs: Any, question: Any, context: Any) -> tuple[list[Question], bool]:
    """Return the questions that are asked, and whether it is one by itself. Raises DataError."""
    if inputs is None:
        one = isinstance(question, str) and isinstance(context, str)
        pairs = [(question, context)] if one else list(_pairs(question, context))
        inputs = [dict(zip(FIELDS, pair, strict=True)) for pair in pairs]
    else:
        one = isinstance(inputs, Mapping)
        inputs = [inputs] if one else list(inputs)
    for number, each in enumerate(inputs):
        if not isinstance(each, Mapping) or not all(isinstance(each.get(name), str) for name in FIELDS):
            raise DataError(f"question {number + 1}: give a `question` and a `context`, both texts")
        for name in FIELDS:
            if not each[name].strip():
                raise DataError(f"question {number + 1}: its {name} is empty")
    return [Question(each["question"], each["context"]) for each in inputs], one


def _pairs(question: Any, context: Any) -> Any:
    if isinstance(question, (list, tuple)) and isinstance(context, (list, tuple)) and len(question) == len(context):
        return zip(question, context, strict=True)
    raise DataError("give `question` and `context`: two texts, or two lists of texts that are as long")


def _answer(
    asked: Question, found: Found | None, made: Sequence[Window], starts: Any, ends: Any, may_be_none: bool
) -> dict[str, Any]:
    span = found.span if found is not None else None
    if found is None or span is None or (may_be_none and found.nothing > span.score):
        place = found.emptiest if found is not None else 0
        null = made[place].null
        return _said("", _probability(made[place], starts[place], ends[place], null, null), 0, 0)
    score = _probability(made[span.window], starts[span.window], ends[span.window], span.start, span.end)
    return _said(asked.context[span.first : span.last], score, span.first, span.last)


def _said(answer: str, score: float, start: int, end: int) -> dict[str, Any]:
    return {"score": score, "start": start, "end": end, "answer": answer}


def _probability(window: Window, start: Any, end: Any, first: int, last: int) -> float:
    """Return the probability of a start times that of an end, among the tokens of the context and the null token."""
    places = [place for place, each in enumerate(window.offsets) if each is not None] + [window.null]
    return math.prod(
        math.exp(float(logits[place]) - float(torch.from_numpy(logits[places]).double().logsumexp(0)))
        for logits, place in ((start, first), (end, last))
    )
