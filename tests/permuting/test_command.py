"""`sparsify permute` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from sparsify.cli.app import app
from tests.anatomy.declared import make
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="folders are tried with transformers 5")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    make("BertForSequenceClassification").bfloat16().save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "tokenizer.json").write_text("{}")
    return tmp_path / "dense"


def said(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["permute", *map(str, words)])
    return done.exit_code, done.output


def test_it_writes_an_ordinary_folder_and_says_what_is_kept(dense: Path, tmp_path: Path) -> None:
    code, text = said(dense, tmp_path / "out", "--tensors")
    assert code == 0, text
    assert "kept |w| under 2:4" in text
    assert "what could be permuted (4 blocks)" in text
    assert "bert.encoder.layer.1.output.dense.weight" in text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}
    one, two = (AutoModelForSequenceClassification.from_pretrained(each).eval() for each in (dense, tmp_path / "out"))
    assert two.dtype == torch.bfloat16
    ids = torch.arange(8)[None] + 2
    with torch.no_grad():
        first, second = one.float()(ids).logits, two.float()(ids).logits
    assert torch.allclose(first, second, atol=1e-5)
    assert not torch.equal(one.bert.encoder.layer[0].output.dense.weight, two.bert.encoder.layer[0].output.dense.weight)
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, other.flatten().sort().values), "bits only change their places"


def test_json_has_the_orders(dense: Path, tmp_path: Path) -> None:
    code, text = said(dense, tmp_path / "out", "--pattern", "1:4", "--seed", "3", "--json")
    assert code == 0, text
    data = json.loads(text)
    assert data["pattern"] == "1:4"
    assert data["total"]["after_share"] > data["total"]["before_share"]
    assert [sorted(block["orders"][0]) for block in data["blocks"] if len(block["orders"]) == 1] == [
        list(range(64))
    ] * 2
    assert data["in_time"]


def test_wrong_folders_and_flags_are_one_error_and_nothing_is_written(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    for words, reason, wanted in (
        ((tmp_path / "nothing", tmp_path / "out"), "no such folder", 1),
        ((tmp_path / "letters", tmp_path / "out"), "no config.json", 1),
        ((dense, dense), "the folder that is read", 1),
        ((dense, tmp_path / "letters"), "more than a model", 1),
        ((dense, tmp_path / "out", "--pattern", "4:2"), "no N:M", 2),
        ((dense, tmp_path / "out", "--pattern", "block"), "no N:M", 2),
        ((dense, tmp_path / "out", "--seconds", "nan"), "--seconds", 2),
        ((dense, tmp_path / "out", "--seed", "-1"), "--seed", 2),
    ):
        code, text = said(*words)
        assert code == wanted, text
        assert reason in " ".join(text.split()), text
        assert "Traceback" not in text
    assert not (tmp_path / "out").exists()
