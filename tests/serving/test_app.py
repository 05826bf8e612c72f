"""The HTTP interface: answers, limits, errors in a sentence, health, metrics."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from transformers import PreTrainedTokenizerFast

from sparsify.errors import PlanError
from sparsify.serving.app import make_app
from sparsify.serving.limits import Limits
from sparsify.serving.model import Served
from tests.serving.served import with_head
from tests.train.test_train_tasks import causal

LIMITS = Limits(batch=4, texts=5, length=12, body=400)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(make_app(served, LIMITS)) as made:
        yield made


def ask(client: TestClient, inputs: Any, **parameters: Any) -> Any:
    answer = client.post("/predict", json={"inputs": inputs, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_answers_are_those_of_the_pipeline(client: TestClient, served: Served):
    texts = ["a fine film", "the story was very dull and long", "a song"]
    assert ask(client, texts) == [pytest.approx(answer, abs=1e-6) for answer in served.run(texts)]
    assert ask(client, texts[0]) == pytest.approx(served.run(texts[0])[0], abs=1e-6)
    both = ask(client, texts[:1], top_k=2)
    assert [len(answer) for answer in both] == [2]
    assert sum(each["score"] for each in both[0]) == pytest.approx(1)


def test_requests_that_come_together_share_batches(served: Served):
    with TestClient(make_app(served, replace(LIMITS, batch=8, wait=0.2))) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda text: ask(client, text), ["a fine film", "a dull song"] * 4))
        said = client.get("/metrics").text
    assert answers == [pytest.approx(answers[n % 2], abs=1e-6) for n in range(8)]
    count, total = (float(_value(said, f"sparsify_batch_texts_{name}")) for name in ("count", "sum"))
    assert (count, total) == (1, 8)


def _value(text: str, name: str) -> str:
    return next(line.split()[-1] for line in text.splitlines() if line.startswith(name + " "))


BAD = [
    (b"not json", 400, "no JSON"),
    (b"[1]", 422, '"inputs" must be a text'),
    (b'{"inputs": []}', 422, '"inputs" must be a text'),
    (b'{"inputs": [1, "a"]}', 422, '"inputs" must be a text'),
    (b'{"inputs": "a", "parameter": {}}', 422, "there is no field 'parameter'"),
    (b'{"inputs": "a", "parameters": [1]}', 422, '"parameters" must be an object'),
    (b'{"inputs": "a", "parameters": {"topk": 2}}', 422, "it takes top_k"),
    (b'{"inputs": "a", "parameters": {"top_k": 1.5}}', 422, "top_k: expected a whole number from 1 to 10000, got 1.5"),
    (b'{"inputs": "a", "parameters": {"top_k": true}}', 422, "got True"),
    (b'{"inputs": "a", "parameters": {"top_k": 0}}', 422, "got 0"),
    (b'{"inputs": ["a film", "  "]}', 422, "inputs[1] is empty"),
    (b'{"inputs": "\\ud800"}', 422, "surrogate"),
    (b'{"inputs": ["a", "a", "a", "a", "a", "a"]}', 413, "6 inputs; at most 5"),
    (b'{"inputs": "' + b"a " * 11 + b'"}', 422, "inputs[0] has 13 tokens; at most 12 are taken"),
    (b'{"inputs": "' + b"a" * 400 + b'"}', 413, "more than 400 bytes"),
    (b'{"inputs": ' + b"[" * 380, 400, "no JSON"),
]


@pytest.mark.parametrize(("body", "status", "said"), BAD, ids=[said for _, _, said in BAD])
def test_a_bad_request_is_told_what_is_wrong(client: TestClient, body: bytes, status: int, said: str):
    answer = client.post("/predict", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert ask(client, "a fine film")["label"].startswith("LABEL_")  # and the next one is answered


def test_the_places_of_the_model_are_a_limit_too(served: Served):
    with TestClient(make_app(served, Limits())) as client:
        assert client.get("/model").json()["limits"]["length"] == 64
        assert "has 72 tokens; at most 64" in client.post("/predict", json={"inputs": "a " * 70}).json()["error"]


def test_what_it_is_and_how_it_does(client: TestClient, folder: Path):
    about = client.get("/model").json()
    assert (about["model"], about["task"], about["engine"]) == (folder.name, "text-classification", "torch")
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    before = client.get("/metrics").text
    client.post("/predict", content=b"no")
    ask(client, ["a", "film"])
    after = client.get("/metrics").text
    for name, more in (('sparsify_requests_total{status="200"}', 1), ("sparsify_texts_total", 2)):
        assert float(_value(after, name)) == float(_value(before, name) if name in before else 0) + more
    assert 'sparsify_requests_total{status="400"}' in after
    assert float(_value(after, "sparsify_waiting_texts")) == 0
    ask(client, "a film", top_k=2)  # two labels of one text
    assert (
        float(_value(client.get("/metrics").text, "sparsify_texts_total"))
        == float(_value(after, "sparsify_texts_total")) + 1
    )


def test_the_tokenizer_of_the_running_batch_is_nobody_elses(served: Served):
    """A fast tokenizer that two threads use at once raises "Already borrowed"."""
    assert served.counter is not served.run.tokenizer
    assert served.counter.get_vocab() == served.run.tokenizer.get_vocab()


class Held:
    """A model that answers when it is let go."""

    name, task, engine, most, fields = "held", "text-classification", "torch", None, ()

    def __init__(self) -> None:
        self.go, self.runs = threading.Event(), threading.Event()

    def parameters(self, given: Any) -> tuple[()]:
        return ()

    def prepared(self, texts: Any, limits: Limits) -> Any:
        return texts

    def answer(self, texts: list[str], parameters: Any) -> list[str]:
        self.runs.set()
        assert self.go.wait(30)
        if "bad" in texts:
            raise RuntimeError("inside")
        return [text.upper() for text in texts]


def test_too_many_and_too_slow_requests_are_refused_and_the_others_answered():
    held = Held()
    with TestClient(make_app(held, Limits(batch=1, queue=2, timeout=0.5))) as client, ThreadPoolExecutor(4) as pool:  # type: ignore[arg-type]
        first = pool.submit(client.post, "/predict", json={"inputs": "a"})
        assert held.runs.wait(30)
        refused = client.post("/predict", json={"inputs": ["b", "c", "d"]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "try again" in refused.json()["error"]
        late = client.post("/predict", json={"inputs": "e"})
        assert (late.status_code, late.json()) == (504, {"error": "no answer within 0.5 s"})
        held.go.set()
        assert first.result().status_code in (200, 504)
        assert client.post("/predict", json={"inputs": "f"}).json() == "F"


def test_what_the_model_raises_is_not_shown(caplog: pytest.LogCaptureFixture):
    held = Held()
    held.go.set()
    with TestClient(make_app(held, Limits())) as client:  # type: ignore[arg-type]
        answer = client.post("/predict", json={"inputs": "bad"})
        assert (answer.status_code, answer.json()) == (500, {"error": "the model raised RuntimeError"})
        assert client.post("/predict", json={"inputs": "good"}).json() == "GOOD"


def test_other_tasks(tmp_path: Path):
    features = Served.open(with_head(tmp_path / "features", "BertModel"), engine="torch")
    alone = [features.answer([text], ())[0] for text in ("a film", "the story was long")]
    together = features.answer(["a film", "the story was long"], ())
    assert [len(answer[0]) for answer in together] == [4, 6]  # no vectors of the padding
    assert together[0][0] == [pytest.approx(row, abs=1e-5) for row in alone[0][0]]

    tags = Served.open(with_head(tmp_path / "tags", "BertForTokenClassification", num_labels=3), engine="torch")
    assert tags.task == "token-classification"
    with TestClient(make_app(tags, LIMITS)) as client:
        assert {tag["word"] for tag in ask(client, "a film")} <= {"a", "film"}

    words = Served.open(causal(tmp_path), engine="torch")
    assert words.task == "text-generation"
    with TestClient(make_app(words, LIMITS)) as client:
        answers = ask(client, ["a fine film", "the"], max_new_tokens=3, do_sample=False)
        assert [
            answer[0]["generated_text"].startswith(text)
            for answer, text in zip(answers, ("a fine", "the"), strict=True)
        ]
        assert answers[1] == ask(client, "the", max_new_tokens=3, do_sample=False)

    folder = with_head(tmp_path / "mlm", "BertForMaskedLM")
    with pytest.raises(PlanError, match="does not define a `mask_token`"):
        Served.open(folder, engine="torch")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "[UNK]"})
    tokenizer.save_pretrained(folder)
    guesses = Served.open(folder, engine="torch")
    assert guesses.task == "fill-mask"
    with TestClient(make_app(guesses, LIMITS)) as client:
        assert len(ask(client, "a [UNK] film", top_k=3)) == 3
        assert "has no [UNK] to fill" in client.post("/predict", json={"inputs": "a film"}).json()["error"]


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = with_head(tmp_path_factory.mktemp("answering"), "BertForQuestionAnswering")
    served = Served.open(folder, engine="torch")
    assert served.warm() is None
    with TestClient(make_app(served, replace(LIMITS, length=80, body=4000))) as made:
        made.served = served  # type: ignore[attr-defined]
        yield made


def test_questions_are_answered(answering: TestClient):
    asked = [
        {"question": "what was fine", "context": context} for context in ("the film was fine", "a dull song " * 20)
    ]
    found = ask(answering, asked)
    assert found == [pytest.approx(each, abs=1e-5) for each in answering.served.run(asked)]  # type: ignore[attr-defined]
    assert [each["context"][said["start"] : said["end"]] for each, said in zip(asked, found, strict=True)] == [
        said["answer"] for said in found
    ]
    assert ask(answering, asked[0]) == pytest.approx(found[0], abs=1e-5)
    assert len(ask(answering, asked[1], max_answer_len=1)["answer"].split()) == 1


ODD_QUESTIONS = [
    ({"inputs": "what"}, '"inputs" must be an object with question and context'),
    ({"inputs": {"question": "what"}}, '{"question": "a question", "context": "a context"}'),
    ({"inputs": {"question": "what", "context": 1}}, "must be an object with question and context"),
    ({"inputs": {"question": "what", "context": "a film", "title": "x"}}, "must be an object"),
    ({"inputs": [{"question": "what", "context": " "}]}, "inputs[0].context is empty"),
    ({"inputs": {"question": "what", "context": "a " * 90}}, "inputs[0] has 94 tokens; at most 80 are taken"),
    (
        {"inputs": {"question": "what " * 62, "context": "a"}},
        "inputs[0].question leaves no room for a context in windows of 64",
    ),
    ({"inputs": {"question": "what", "context": "\ud800"}}, "surrogate"),
    ({"inputs": {"question": "what", "context": "a"}, "parameters": {"top_k": 2}}, "it takes handle_impossible_answer"),
]


@pytest.mark.parametrize(("body", "said"), ODD_QUESTIONS, ids=[said for _, said in ODD_QUESTIONS])
def test_what_is_no_question_is_told_so(answering: TestClient, body: Any, said: str):
    answer = answering.post("/predict", content=json.dumps(body).encode())
    assert answer.status_code == 422
    assert said in answer.json()["error"]
