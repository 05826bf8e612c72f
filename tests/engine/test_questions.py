"""Question answering as a function: windows, spans, scores, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsify import engine
from sparsify.engine.questions import Question, QuestionAnswering
from sparsify.errors import DataError, PlanError
from tests.serving.served import with_head

CONTEXT = "the film was fine and the story was dull . a song was lovely"
QUESTION = "what was fine"


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> QuestionAnswering:
    folder = with_head(tmp_path_factory.mktemp("answers"), "BertForQuestionAnswering")
    made: QuestionAnswering = engine.pipeline(None, folder, engine="torch")
    assert made.task == "question-answering"
    return made


def by_hand(answer: QuestionAnswering, question: str, context: str, longest: int = 30) -> dict[str, Any]:
    """Return the best of all pairs of one window."""
    tokenizer = answer.tokenizer
    encoded = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        outputs = answer.model(**encoded)
    start, end = outputs.start_logits[0].double(), outputs.end_logits[0].double()
    inside = [i for i, side in enumerate(encoded.sequence_ids(0)) if side == 1]
    pairs = [(float(start[i] + end[j]), i, j) for i in inside for j in inside if i <= j < i + longest]
    _, i, j = max(pairs)
    counted = [0, *inside]  # the first token says that there is no answer
    score = math.exp(start[i] - start[counted].logsumexp(0)) * math.exp(end[j] - end[counted].logsumexp(0))
    first, last = offsets[i][0], offsets[j][1]
    return {"score": pytest.approx(score, rel=1e-4), "start": first, "end": last, "answer": context[first:last]}


@pytest.mark.parametrize("longest", [30, 2, 1])
def test_the_answer_is_the_best_of_all_spans(answer: QuestionAnswering, longest: int) -> None:
    found = answer(question=QUESTION, context=CONTEXT, max_answer_len=longest)
    assert found == by_hand(answer, QUESTION, CONTEXT, longest)
    assert len(found["answer"].split()) <= longest


def test_every_way_to_ask_and_every_batch_give_the_same(answer: QuestionAnswering) -> None:
    contexts = [CONTEXT, "a dull film", "Über 🎬 the song — lovely"]
    asked = [{"question": QUESTION, "context": context} for context in contexts]
    alone = [answer(each) for each in asked]
    for found in (
        answer(asked),
        answer(asked, batch_size=1),
        answer(question=[QUESTION] * 3, context=contexts),
    ):
        for mine, other in zip(found, alone, strict=True):
            assert mine == {**other, "score": pytest.approx(other["score"], rel=1e-4)}
    for each, context in zip(alone, contexts, strict=True):
        assert each["answer"] == context[each["start"] : each["end"]]
    assert answer([]) == []


def test_a_long_context_is_cut_into_windows_that_share_tokens(answer: QuestionAnswering) -> None:
    """The answer of all windows is the best that any of them has, wherever it stands."""
    context = " . ".join([CONTEXT] * 12)
    asked = {"question": QUESTION, "context": context}
    assert len(answer.tokenizer(QUESTION, context, verbose=False)["input_ids"]) > 64, "more than it has positions for"
    seen: list[int] = []
    handle = answer.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    found = answer(asked, batch_size=1)
    handle.remove()
    assert len(seen) > 2
    assert max(seen) == 64
    made, starts, ends = answer._logits([Question(**asked)], 384, 128, 4)
    best = max(
        float(start[i] + end[j])
        for window, start, end in zip(made, starts, ends, strict=True)
        for i, one in enumerate(window.offsets)
        for j, other in enumerate(window.offsets)
        if one is not None and other is not None and i <= j < i + 30
    )
    mine = {
        float(start[i] + end[j])
        for window, start, end in zip(made, starts, ends, strict=True)
        for i, one in enumerate(window.offsets)
        for j, other in enumerate(window.offsets)
        if one is not None and other is not None and (one[0], other[1]) == (found["start"], found["end"])
    }
    assert max(mine) == pytest.approx(best)


def test_saying_nothing_may_be_the_answer(answer: QuestionAnswering) -> None:
    def nothing(_: Any, __: Any, outputs: Any) -> Any:
        outputs.start_logits[:, 0] = outputs.end_logits[:, 0] = 50.0
        return outputs

    handle = answer.model.register_forward_hook(nothing)
    try:
        found = answer(question=QUESTION, context=CONTEXT, handle_impossible_answer=True)
        assert found == {"score": pytest.approx(1.0), "start": 0, "end": 0, "answer": ""}
        assert answer(question=QUESTION, context=CONTEXT)["answer"], "it must say something"
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": {"question": QUESTION}}, "question 1: give a `question` and a `context`"),
        ({"inputs": [{"question": QUESTION, "context": CONTEXT}, "what"]}, "question 2: give a `question`"),
        ({"inputs": {"question": " ", "context": CONTEXT}}, "question 1: its question is empty"),
        ({"question": QUESTION, "context": ""}, "question 1: its context is empty"),
        ({"question": [QUESTION], "context": CONTEXT}, "two lists of texts that are as long"),
        ({"question": QUESTION}, "two lists of texts"),
        ({"question": "what " * 70, "context": CONTEXT}, "7[0-9] tokens with its separators leaves no room"),
    ],
)
def test_what_cannot_be_asked(answer: QuestionAnswering, given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        answer(**given)


def test_the_engine_answers_as_torch_does(tmp_path: Path) -> None:
    folder = with_head(tmp_path, "BertForQuestionAnswering")
    dense, sparse = (engine.pipeline("question-answering", folder, engine=name) for name in ("torch", "sparse"))
    one, other = (each(question=QUESTION, context=CONTEXT) for each in (dense, sparse))
    assert one == {**other, "score": pytest.approx(other["score"], rel=1e-4)}


def test_another_option_and_a_slow_tokenizer_are_refused(answer: QuestionAnswering, tmp_path: Path) -> None:
    folder = with_head(tmp_path, "BertForQuestionAnswering")
    with pytest.raises(PlanError, match="framework"):
        engine.pipeline("question-answering", folder, engine="torch", framework="pt")
    with pytest.raises(PlanError, match="fast tokenizer"):
        QuestionAnswering(answer.model, object())
