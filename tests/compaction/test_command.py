"""`sparsify compact` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsify.cli.app import app
from tests.anatomy.declared import make
from tests.compaction.dead import kill
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="folders of smaller models are tried with transformers 5")


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    model = make("BertForSequenceClassification")
    kill(model)
    model.save_pretrained(tmp_path / "sparse")
    (tmp_path / "sparse" / "tokenizer.json").write_text("{}")
    (tmp_path / "sparse" / "trainer_state.json").write_text("{}")
    (tmp_path / "sparse" / "checkpoints").mkdir()
    return tmp_path / "sparse"


def said(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compact", *map(str, words)])
    return done.exit_code, done.output


def test_it_writes_the_smaller_model_and_says_how_it_loads(sparse: Path, tmp_path: Path) -> None:
    code, text = said(sparse, tmp_path / "small")
    assert code == 0, text
    assert "→" in text
    assert "heads: 8 → 6 (3 in every block, of 4)" in text
    assert "neurons: 128 → 95 (47 to 48 in a block, of 64)" in text
    assert "sparsify.load(" in text
    assert "differ in width" in text
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert names == {"config.json", "model.safetensors", "sparsify_widths.json", "tokenizer.json"}
    code, text = said(sparse, tmp_path / "equal", "--equal", "--json")
    data = json.loads(text)
    assert code == 0
    assert data["loading"]["config"] == {"intermediate_size": [64, 48]}
    assert data["parameters"]["after"] < data["parameters"]["before"]
    assert {width["after"] for width in data["widths"] if width["kind"] == "neurons"} == {48}
    code, text = said(tmp_path / "small", tmp_path / "smaller")  # what is small already loads, and stays as it is
    assert code == 0, text
    assert "nothing in it is dead" in text


def test_a_model_that_stock_transformers_loads(tmp_path: Path) -> None:
    model = make("LlamaForCausalLM")
    kill(model, equal=True)
    model.save_pretrained(tmp_path / "sparse")
    code, text = said(tmp_path / "sparse", tmp_path / "small")
    assert code == 0, text
    assert "stock transformers loads it" in text
    assert "intermediate_size 48" in text


def test_wrong_folders_are_one_error_and_nothing_is_written(sparse: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    for words, reason in (
        ((tmp_path / "nothing", tmp_path / "out"), "no such folder"),
        ((tmp_path / "letters", tmp_path / "out"), "no config.json"),
        ((sparse, sparse), "the folder that is read"),
        ((sparse, tmp_path / "letters"), "something else"),
        ((sparse, tmp_path / "out", "--tolerance", "2"), "between 0 and 1"),
    ):
        code, text = said(*words)
        assert code == 1, text
        assert reason in " ".join(text.split()), text
        assert "Traceback" not in text
    assert not (tmp_path / "out").exists()
    assert said(sparse, tmp_path / "out", "--align", "0")[0] == 2
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"
