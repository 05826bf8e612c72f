"""Question answering: windows over each context, a start and an end for the answer, the best span of all windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from sparsify.errors import PlanError, first_line
from sparsify.report.predictions import Predictions
from sparsify.spans import Window, batch, best, windows
from sparsify.train import squad
from sparsify.train.model import config_for, load
from sparsify.train.order import Ordered
from sparsify.train.settings import Settings
from sparsify.train.squad import Question
from sparsify.train.task import Prepared, Task, fingerprint
from sparsify.train.tokenizing import fast, most_tokens, tokenizer_of


def labelled(window: Window, answers: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return a window's inputs with the place of the first answer, or of the null token where it is not inside."""
    start = end = window.null
    if answers:
        text, first = answers[0]
        places = [(i, span) for i, span in enumerate(window.offsets) if span is not None]
        begins = [i for i, span in places if span[0] <= first < span[1]]
        last = first + len(text) - 1
        ends = [i for i, span in places if span[0] <= last < span[1]]
        if begins and ends:
            start, end = begins[0], ends[-1]
    return {**window.inputs, "start_positions": start, "end_positions": end}


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
        found = best(self.windows, starts, ends)
        answers = []
        for number, question in enumerate(self.questions):
            one = found.get(number)
            span = one.span if one is not None else None
            empty = one is None or span is None or (self.some_have_none and one.nothing > span.score)
            answers.append("" if empty or span is None else question.context[span.first : span.last])
        return answers


def prepare(settings: Settings, *, loaded: nn.Module | None = None) -> Prepared:
    """Read questions and model. Raises DataError and PlanError."""
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
    rows = [labelled(window, train[window.question].answers) for window in made]
    held = [labelled(window, evaluation[window.question].answers) for window in others]
    hashes = [fingerprint((each.question, each.context, each.answers) for each in side) for side in (train, evaluation)]
    measure = Measure(evaluation, others)
    return Prepared(
        model=model,
        train=Ordered(rows, settings.rows_per_step, settings.seed, [len(row["input_ids"]) for row in rows]),
        evaluation=held,
        collate=partial(batch, tokenizer),
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
