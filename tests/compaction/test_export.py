"""ONNX of smaller models: per-layer widths, and blocks of which nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsify import compact, save
from sparsify.cli.app import app
from sparsify.errors import ExportError
from sparsify.export.onnx import export
from tests.anatomy.declared import make
from tests.compaction.dead import kill
from tests.majors import OLD

pytestmark = pytest.mark.skipif(OLD, reason="folders of smaller models are tried with transformers 5")
SLOW = ("GPT2LMHeadModel", "T5ForConditionalGeneration", "BartForConditionalGeneration", "BertForQuestionAnswering",
        "BertForTokenClassification", "BertForMaskedLM")  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["ViTForImageClassification", "LlamaForCausalLM", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)],
)
def test_widths_that_differ_between_layers(kind: str, tmp_path: Path) -> None:
    import transformers

    model = (
        make(kind)
        if not kind.startswith("Bert")
        else getattr(transformers, kind)(make("BertForSequenceClassification").config).eval()
    )
    kill(model)
    save(compact(model), tmp_path / "small")
    made = export(tmp_path / "small", tmp_path / "small.onnx")
    assert made.difference < 1e-4
    model.save_pretrained(tmp_path / "sparse")
    other = export(tmp_path / "sparse", tmp_path / "other" / "sparse.onnx")
    assert made.bytes < other.bytes


def test_what_is_dead_leaves_on_the_way(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    kill(model)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.output.dense.weight.zero_()
    model.save_pretrained(tmp_path / "sparse")
    save(compact(model), tmp_path / "small")
    with pytest.raises(ExportError, match="--at-least 1"):
        export(tmp_path / "small", tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()
    done = CliRunner().invoke(app, ["export", str(tmp_path / "sparse"), str(tmp_path / "made.onnx"), "--compact"])
    assert done.exit_code == 0, done.output
    assert "compact: 21,666 →" in done.output
    words = ["compact", str(tmp_path / "sparse"), str(tmp_path / "one"), "--at-least", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "at least 1 are wanted" in done.output
    assert export(tmp_path / "one", tmp_path / "one.onnx").difference < 1e-4
