"""Question answering: windows over each context, a start and an end for the answer, the best span of all windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from sparsify import progress
from sparsify.errors import PlanError, first_line
from sparsify.report.predictions import Predictions
from sparsify.train import squad
from sparsify.train.model import config_for, load
from sparsify.train.order import Ordered
from sparsify.train.settings import Settings
from sparsify.train.squad import Question
from sparsify.train.task import Prepared, Task, fingerprint
from sparsify.train.tokenizing import fast, most_tokens, tokenizer_of

BEST = 20
"""Starts and ends that are tried in each window."""
LONGEST = 30
"""Tokens of an answer, as in Devlin et al. (2019) and the scripts that followed."""


@dataclass(frozen=True)
class Window:
    """A part of a context, with its question before (or, where a model pads on the left, after) it."""

    question: int
    inputs: dict[str, Any]
    offsets: list[tuple[int, int] | None]
    """Of every token of the context, its characters; None elsewhere."""

    null: int
    """The token whose start and end say that there is no answer."""

    def labelled(self, answers: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Return the inputs with the place of the first answer, or of the null token where it is not inside."""
        start = end = self.null
        if answers:
            text, first = answers[0]
            places = [i for i, span in enumerate(self.offsets) if span is not None]
            begins = [i for i in places if self.offsets[i][0] <= first < self.offsets[i][1]]  # type: ignore[index]
            last = first + len(text) - 1
            ends = [i for i in places if self.offsets[i][0] <= last < self.offsets[i][1]]  # type: ignore[index]
            if begins and ends:
                start, end = begins[0], ends[-1]
        return {**self.inputs, "start_positions": start, "end_positions": end}


def windows(tokenizer: Any, questions: Sequence[Question], most: int, stride: int) -> list[Window]:
    """Return windows of at most `most` tokens that share `stride` tokens of the context with the one before."""
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


class Measure:
    """F1 and exact match of the best spans; with questions that have no answer, saying nothing is an answer too."""

    def __init__(self, questions: Sequence[Question], made: Sequence[Window]) -> None:
        self.questions, self.windows = questions, made
        self.some_have_none = any(not question.answers for question in questions)

    def __call__(self, prediction: Any) -> dict[str, float]:
        starts, ends = prediction.predictions[:2]
        return squad.scores(self.answers(starts, ends), self.questions)

    def predicted(self, prediction: Any, *, sha256: str) -> Predictions:
        """Return the answer to each question."""
        answers = self.answers(*prediction.predictions[:2])
        right = [int(squad.is_right(*pair)) for pair in zip(answers, self.questions, strict=True)]
        return Predictions(kind="texts", unit="questions", sha256=sha256, predicted=answers, right=right)

    def answers(self, starts: Any, ends: Any) -> list[str]:
        """Return the answer to every question, from logits [windows, tokens]."""
        best: dict[int, tuple[float, str]] = {}
        nothing: dict[int, float] = {}
        for window, start, end in zip(self.windows, starts, ends, strict=True):
            number, size = window.question, len(window.offsets)
            null = float(start[window.null] + end[window.null])
            nothing[number] = min(nothing.get(number, null), null)
            found = span(start[:size], end[:size], window.offsets)
            if found is not None and found[0] > best.get(number, (-float("inf"), ""))[0]:
                best[number] = (found[0], self.questions[number].context[found[1] : found[2]])
        answers = []
        for number in range(len(self.questions)):
            score, text = best.get(number, (-float("inf"), ""))
            answers.append("" if self.some_have_none and nothing.get(number, 0.0) > score else text)
        return answers


def span(start: Any, end: Any, offsets: Sequence[tuple[int, int] | None]) -> tuple[float, int, int] | None:
    """Return (score, first, last character + 1) of the best answer in a window; None where there is none."""
    firsts, lasts = (
        [int(i) for i in logits.argsort()[::-1] if offsets[int(i)] is not None][:BEST] for logits in (start, end)
    )
    pairs = [(float(start[i] + end[j]), i, j) for i in firsts for j in lasts if i <= j < i + LONGEST]
    if not pairs:
        return None
    score, i, j = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
    return score, offsets[i][0], offsets[j][1]  # type: ignore[index]


def prepare(settings: Settings, *, loaded: nn.Module | None = None) -> Prepared:
    """Read questions and model. Raises DataError and PlanError."""
    from transformers import DataCollatorWithPadding

    config = config_for(settings.model, settings.task)
    tokenizer = fast(tokenizer_of(settings.model, config), settings.model, settings.task)
    train, evaluation = (squad.read(*side) for side in ((settings.train, "train"), (settings.eval, "eval")))
    model, notes = load(settings.model, settings.task, config, None, loaded)
    most = most_tokens(settings, config)
    stride = settings.stride if settings.stride is not None else most // 3
    side = "question" if tokenizer.padding_side == "right" else "context"
    try:
        made, others = (windows(tokenizer, each, most, stride) for each in (train, evaluation))
    except Exception as error:  # the tokenizer raises what its language gives it
        longest = max(len(tokenizer(each.question)["input_ids"]) for each in (*train, *evaluation))
        raise PlanError(
            f"windows of {most} tokens that share {stride} leave no room beside a {side} of {longest}: give a larger "
            f"--max-length or a smaller --stride ({first_line(error)})"
        ) from None
    rows = [window.labelled(train[window.question].answers) for window in made]
    held = [window.labelled(evaluation[window.question].answers) for window in others]
    hashes = [fingerprint((each.question, each.context, each.answers) for each in side) for side in (train, evaluation)]
    measure = Measure(evaluation, others)
    return Prepared(
        model=model,
        train=Ordered(rows, settings.rows_per_step, settings.seed, [len(row["input_ids"]) for row in rows]),
        evaluation=held,
        collate=DataCollatorWithPadding(tokenizer),
        processor=tokenizer,
        measure=measure,
        predicted=partial(measure.predicted, sha256=hashes[1]),
        notes=[
            f"{len(train):,} questions to train on in {len(rows):,} windows, {len(evaluation):,} to evaluate on",
            *notes,
        ],
        data={
            "train_rows": len(rows),
            "eval_rows": len(held),
            "train_sha256": hashes[0],
            "eval_sha256": hashes[1],
        },
    )


TASK = Task("question-answering", prepare, ("f1", "exact_match"))
