"""ONNX of smaller models: per-layer widths, and blocks of which nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sparsify import compact, save
from sparsify.cli.app import app
from sparsify.errors import ExportError
from sparsify.export.onnx import export
from tests.anatomy.declared import make
from tests.compaction.dead import kill
from tests.compaction.test_experts import kill as kill_experts
from tests.compaction.test_experts import made as with_experts
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


@pytest.mark.parametrize("name", ["renormalised", "softmax over all, a shared expert"])
def test_experts_that_are_gone(name: str, tmp_path: Path) -> None:
    """Each layer loses others; batch and sequence vary, so that tokens go to experts that are gone, and to others."""
    model = with_experts(name)
    kill_experts(model, [1, 3, 6], [0, 2])
    save(compact(model), tmp_path / "small")
    made = export(tmp_path / "small", tmp_path / "small.onnx")
    assert made.difference < 1e-4
    assert len(made.tried) == 4


def _resnet(folder: Path, processor: bool) -> Any:
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=2)).eval()
    with torch.no_grad():  # two channels within a block
        layer = model.resnet.encoder.stages[1].layers[0].layer[0]
        layer.convolution.weight[:2] = 0
        layer.normalization.weight[:2] = 0
        layer.normalization.bias[:2] = 0
    model.save_pretrained(folder)
    if processor:
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
    return model


def test_a_convolutional_network_all_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "sparse"
    _resnet(folder, processor=True)
    for words in (
        ("compact", folder, tmp_path / "small"),
        ("pack", tmp_path / "small", tmp_path / "small.packed"),
        ("export", folder, tmp_path / "a" / "x.onnx", "--compact"),
        ("export", tmp_path / "small.packed", tmp_path / "b" / "x.onnx"),
        ("benchmark", tmp_path / "small.packed", "--against", folder, "--engine", "torch", "--engine", "onnxruntime",
         "--rounds", 6, "--seconds", 1, "--no-memory"),
    ):  # fmt: skip
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 0, done.output
    made = export(tmp_path / "small", tmp_path / "c" / "x.onnx")
    assert made.inputs == {"pixel_values": ["batch", 3, 32, 32]}  # what the processor makes, cut and all
    assert made.bytes < export(folder, tmp_path / "d" / "x.onnx").bytes


def test_an_image_model_without_a_processor_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "sparse"
    model = _resnet(folder, processor=False)
    for words in (("export", folder, tmp_path / "x.onnx", "--compact"), ("benchmark", folder)):
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 1
        said = " ".join(done.output.split())
        assert "there is no image processor beside the model (preprocessor_config.json)" in said
        assert "image_size into config.json" in said
    model.config.image_size = 24
    model.save_pretrained(folder)
    assert export(folder, tmp_path / "x.onnx", small=True).inputs == {"pixel_values": ["batch", 3, 24, 24]}
