"""Reports on models that compaction has made smaller: what is left of how much, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsify import compact, save
from sparsify.cli.app import app
from sparsify.report.folder import read
from tests.anatomy.declared import make
from tests.compaction.dead import kill
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="folders of smaller models are tried with transformers 5")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    model = make("BertForSequenceClassification")
    kill(model)
    return save(compact(model), tmp_path / "small")


def test_what_is_left_is_told_of_what_there_was(small: Path, tmp_path: Path) -> None:
    facts = dict(read(small).facts())
    assert facts["heads"] == "6 of 8 left, 2 were taken out by compaction (per layer: 3 of 4, 3 of 4)"
    assert facts["neurons"] == "95 of 128 left, 33 were taken out by compaction (per layer: 48 of 64, 47 of 64)"
    words = ["report", str(small), "--json", "--html", str(tmp_path / "page.html"), "--png", str(tmp_path / "page.png")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["structure"]
    for kind, alive, before in (("heads", 6, 8), ("neurons", 95, 128)):
        assert {key: found[kind][key] for key in ("alive", "total", "before")} == {
            "alive": alive, "total": alive, "before": before,
        }  # fmt: skip
    assert [block["before"] for block in found["heads"]["blocks"]] == [4, 4]
    page = (tmp_path / "page.html").read_text()
    assert "layer 0: 3 of 4 heads alive" in page
    assert "layer 1: 47 of 64 neurons alive" in page


def test_what_dies_later_is_not_among_what_is_left(small: Path, tmp_path: Path) -> None:
    from sparsify import load

    model = load(small)
    with torch.no_grad():
        model.bert.encoder.layer[0].intermediate.dense.weight[0] = 0
        model.bert.encoder.layer[0].intermediate.dense.bias[0] = 0
        model.bert.encoder.layer[0].output.dense.weight[:, 0] = 0
    facts = dict(read(save(model, tmp_path / "again")).facts())
    assert facts["neurons"] == "94 of 128 left, 33 were taken out by compaction (per layer: 47 of 64, 47 of 64)"


def test_a_block_of_which_nothing_is_left(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.output.dense.weight.zero_()
        model.bert.encoder.layer[0].output.dense.weight.zero_()
    folder = save(compact(model), tmp_path / "small")
    found = read(folder)
    facts = dict(found.facts())
    assert "per layer: 0 of 4, 4 of 4" in facts["heads"]
    assert "per layer: 0 of 64, 64 of 64" in facts["neurons"]
    assert facts["nothing left in"] == "layer 0"
    assert found.picture().png


def test_a_whole_model_has_no_line(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    facts = dict(read(save(model, tmp_path / "dense")).facts())
    assert "heads" not in facts
    assert "neurons" not in facts
