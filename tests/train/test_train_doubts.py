"""Data that can be used but hold what is odd: said with file and line; columns and metrics that are asked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sparsify.errors import DataError, TrainingError
from sparsify.pretrained import FROM_PADDING, positions
from sparsify.train import conll, doubts, metrics, squad
from sparsify.train.run import metric_names, run
from sparsify.train.tasks import TASKS
from tests import tiny
from tests.commands import said
from tests.train.test_train import recipe, settings

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def prepared(place: Path, path: Path, text: str, **more: Any) -> Any:
    path.write_text(text)
    asked = settings(place, train=str(path), **{"eval": str(path), **more})
    return TASKS[asked.task].prepare(asked)


def plain(count: int = 30) -> str:
    return "".join(f"{text},{label}\n" for label, text in tiny.rows(count, seed=4))


def test_a_label_with_one_row_is_said_with_its_place(place: Path, tmp_path: Path) -> None:
    found = prepared(place, tmp_path / "a.csv", f"text,label\n{plain()}odd,spam\n,1\n")
    assert found.labels.names == ("0", "1", "spam")
    notes = "\n".join(found.notes)
    assert f"odd label: 'spam' ({tmp_path}/a.csv:32) occurs only once" in notes
    assert f"1 row without a text: {tmp_path}/a.csv:33" in notes


def test_a_header_that_is_not_known_is_no_label(place: Path, tmp_path: Path) -> None:
    text = f"phrase,polarity\n{plain()}"
    with pytest.raises(
        DataError, match=r"a\.csv:1: the label 'polarity' occurs nowhere else: if this line is a header"
    ):
        prepared(place, tmp_path / "a.csv", text)
    named = prepared(place, tmp_path / "a.csv", text, label_column="polarity", input_columns=("phrase",))
    assert named.labels.names == ("0", "1")
    numbered = prepared(place, tmp_path / "a.csv", text, label_column="1", input_columns=("0",))
    assert numbered.labels.names == ("0", "1", "polarity"), "who gives numbers says that there is no header"
    assert any("odd label: 'polarity'" in note for note in numbered.notes)


def test_labels_that_look_alike_and_numbers_with_fractions() -> None:
    labels = ["Pos", "neg", "pos", "1", "1.0", "neg"]
    (note,) = doubts.about_labels(labels, lambda row: f"a:{row + 1}")
    assert (
        note
        == "labels that look alike are told apart: 'Pos' (a:1) and 'pos' (a:3)".replace(" and ", ", ")
        + "; '1' (a:4), '1.0' (a:5)"
    )
    assert "text-regression learns numbers" in doubts.about_labels(["0.2", "0.4", "0.2", "0.4"], str)[0]
    assert doubts.about_labels(["inf", "2", "inf", "2"], str) == []
    assert doubts.once(Counter("aaaaabbbbbc")) == ["c"]
    assert doubts.once(Counter("abc")) == [], "where every label is rare none is odd"


def test_a_label_that_the_evaluation_lacks_is_said(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "dev.csv"
    other.write_text("text,label\nfine,1\nlovely,1\n")
    found = prepared(place, tmp_path / "a.csv", f"text,label\n{plain()}", eval=str(other))
    assert f"{other}: no row has the label '0'" in found.notes


@pytest.mark.parametrize(("value", "said"), [("true", "True"), ('"1_0"', "'1_0'"), ("[1]", r"\[1\]"), ("null", "None")])
def test_what_only_python_takes_for_a_number_is_none(place: Path, tmp_path: Path, value: str, said: str) -> None:
    lines = f'{{"text": "a", "label": 0.5}}\n{{"text": "b", "label": {value}}}\n'
    with pytest.raises(DataError, match=rf"a\.jsonl:2: the label {said} is not a finite number"):
        prepared(place, tmp_path / "a.jsonl", lines, task="text-regression")


CONLLU = (
    "# sent_id = 1\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t0\tcase\t_\t_\n"
    "2\tle\tle\tDET\t_\t_\t0\tdet\t_\t_\n2.1\tx\t_\tX\t_\t_\t_\t_\t_\t_\n\n1\tici\tici\tADV\t_\t_\t0\troot\t_\t_\n"
)  # fmt: skip


def test_conll_u_has_its_words_and_parts_of_speech(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU)
    found = conll.read(str(path))
    assert found.columns == {"tokens": [["de", "le"], ["ici"]], "tags": [["ADP", "DET"], ["ADV"]]}
    assert list(found.lines) == [3, 7]
    path.write_text("1\tici\tADV\n")
    with pytest.raises(DataError, match=r"a\.conllu:1: 3 fields, but a line of CoNLL-U has 10"):
        conll.read(str(path))


def test_a_line_of_conll_has_as_many_fields_as_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("York B-LOC\n\nNew York B-LOC\n")
    with pytest.raises(DataError, match=r"a\.conll:3: 3 fields, but line 1 has 2: a word is one field"):
        conll.read(str(path))
    path.write_text("10\u00a0000\tO\nNew York\tB-LOC\n")
    assert conll.read(str(path)).columns["tokens"] == [["10\u00a0000", "New York"]], "tabs divide where there are any"


def test_odd_words_and_tags_of_sentences(place: Path, tmp_path: Path) -> None:
    def sentences(*rows: Any) -> Any:
        rows = (*rows, *([{"tokens": ["fine", "film"], "tags": ["B-X", "O"]}] * 6))
        return prepared(place, tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)), task="token-classification")

    for row, message in (
        ({"tokens": ["a", "b"], "tags": ["O", None]}, r"a\.jsonl:1: the tag is empty"),
        ({"tokens": ["a", ["b"]], "tags": ["O", "O"]}, r"a\.jsonl:1: the word is \['b'\], not one value"),
        ({"tokens": ["a", "b"], "tags": ["O", ["O"]]}, r"a\.jsonl:1: the tag is \['O'\], not one value"),
        ({"tokens": ["a", "b"], "tags": "OO"}, r"a\.jsonl:1: 'tags' is 'OO', not a list"),
    ):
        with pytest.raises(DataError, match=message):
            sentences(row)
    found = sentences({"tokens": ["a", ""], "tags": ["B-Y", "O"]})
    notes = "\n".join(found.notes)
    assert f"odd tag: 'B-Y' ({tmp_path}/a.jsonl:1) occurs only once" in notes
    assert f"1 sentences have words without a token ({tmp_path}/a.jsonl:1): their tags are not learned" in notes
    assert "are cut" not in notes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"is_impossible": True}, "'is_impossible' is true, but there is an answer, 'fine'"),
        ({"is_impossible": "no"}, "'is_impossible' is 'no', neither true nor false"),
        (
            {"answers": {"text": ["fine", "a"], "answer_start": [0]}},
            "answers are lists text and answer_start of one length",
        ),
        ({"answers": [{"text": "fine", "answer_start": 99}]}, "the answer 'fine' is not at 99"),
        ({"answers": None}, r"an answer is \{text, answer_start\}, got None"),
    ],
)
def test_answers_that_contradict_themselves(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    row = {"question": "what", "context": "fine film", "answers": [{"text": "fine", "answer_start": 0}]}
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps({**row, **more})}\n")
    with pytest.raises(DataError, match=f"a.jsonl:2: {message}"):
        squad.read(str(path), "train")


def test_f1_is_named_after_its_average() -> None:
    logits = np.eye(3)[[0, 0, 1, 1, 1, 0]][:, :2]
    found = metrics.classification(
        SimpleNamespace(predictions=logits, label_ids=np.array([0, 0, 1, 1, 0, 0])), classes=2
    )
    first, second = 2 * 3 / (2 * 3 + 0 + 1), 2 * 2 / (2 * 2 + 1 + 0)
    assert found["f1_binary"] == pytest.approx(second)
    assert found["f1_macro"] == pytest.approx((first + second) / 2)
    assert found["f1_weighted"] == pytest.approx((4 * first + 2 * second) / 6)
    assert "f1" not in found
    never = SimpleNamespace(predictions=np.array([[1.0, 0.0]] * 3), label_ids=np.zeros(3, dtype=int))
    assert metrics.classification(never, classes=2)["f1_binary"] == 0.0
    assert "f1_binary" not in metrics.classification(never, classes=3)


def test_best_goes_by_the_metric_that_was_asked_for(place: Path, tmp_path: Path) -> None:
    report = run(settings(place, metric="loss", best=True, epochs=3), recipe(), tmp_path / "out")
    steps = [
        (entry["eval_loss"], entry["step"])
        for entry in report["history"]
        if "eval_loss" in entry and entry["step"] >= 20
    ]
    assert report["training"]["picked_step"] == min(steps)[1]
    assert report["training"]["metrics"]["loss"] == pytest.approx(min(steps)[0])
    asked = settings(place, metric="f1")
    with pytest.raises(TrainingError, match="--metric f1: text-classification has no such metric"):
        metric_names(asked, TASKS[asked.task].prepare(asked))


def test_flags_that_a_task_does_not_read_are_wrong_usage(place: Path, tmp_path: Path) -> None:
    for flags, message in (
        (("--text-column", "a", "--text-column", "b", "--text-column", "c"), "is given 3 times, at most 2 are read"),
        (("--text-column", "a", "--text-column", "a"), "'a' is given twice"),
        (("--text-column", "a", "--label-column", "a"), "'a' is an input, too"),
        (("--image-column", "a"), "is not for text-classification"),
        (("--task", "causal-lm", "--label-column", "a"), "is not for causal-lm"),
        (("--task", "question-answering", "--text-column", "a"), "its columns are question, context and answers"),
    ):
        done = said(place, tmp_path / "out", *flags)
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["roberta", "camembert", "data2vec-text", "lilt", "mpnet", "xmod", "luke"])
def test_a_text_is_no_longer_than_the_table_of_positions(kind: str) -> None:
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, num_hidden_layers=1)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    tables = [module for name, module in model.named_modules() if name.endswith("embeddings.position_embeddings")]
    assert isinstance(tables[0], nn.Embedding)
    assert tables[0].padding_idx is not None
    assert positions(config) == tables[0].num_embeddings - tables[0].padding_idx - 1


def test_every_kind_whose_positions_begin_after_the_padding_is_known() -> None:
    """As transformers' own files have it; those that are left out train on no task of ours."""
    import transformers

    table = re.compile(
        r"position_embeddings = nn\.Embedding\(\s*config\.max_position_embeddings[^)]*padding_idx=self\.pad"
    )
    named = re.compile(r'^    model_type = "([^"]+)"', re.MULTILINE)
    found = {}
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        if table.search(path.read_text(encoding="utf-8")):
            texts = [other.read_text(encoding="utf-8") for other in path.parent.glob("configuration_*.py")]
            found[path.parent.name] = {name for text in texts for name in named.findall(text)}
    assert "roberta" in found
    assert [name for name, kinds in found.items() if not kinds & set(FROM_PADDING)] == [
        name for name in found if name in ("evolla", "pp_doclayout_v2")
    ]
