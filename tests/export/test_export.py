"""ONNX: the same results in ONNX Runtime, zeros kept, shapes that vary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from sparsify.cli.app import app
from sparsify.errors import ExportError, PlanError, StateError
from sparsify.export import onnx as exporter
from sparsify.export.onnx import export
from sparsify.masking import count_zeros
from tests import tiny
from tests.models import save_sparse

onnx = pytest.importorskip("onnx")  # the extra `export` is not for old versions of torch and transformers
onnxruntime = pytest.importorskip("onnxruntime")
TEXT = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "bart", "mobilebert")


@pytest.mark.parametrize("name", ["bert", pytest.param("vit", id="vit"), *(
    pytest.param(name, marks=pytest.mark.slow) for name in TEXT if name != "bert"
)])  # fmt: skip
def test_results_and_zeros_are_the_models(tmp_path: Path, name: str) -> None:
    model = save_sparse(name, tmp_path / "model")
    made = export(tmp_path / "model", tmp_path / "out.onnx")
    assert made.difference < 1e-5
    assert made.zeros == sum(count_zeros(parameter) for parameter in model.parameters())
    graph = onnx.load(str(made.path))
    onnx.checker.check_model(graph)
    assert next(entry.version for entry in graph.opset_import if not entry.domain) == made.opset == 18
    assert next(iter(made.inputs.values()))[0] == "batch"
    session = onnxruntime.InferenceSession(str(made.path))
    if name == "bert":
        tokens = torch.randint(2, 40, (5, 11))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": 0 * tokens}
    elif name == "vit":
        inputs = {"pixel_values": torch.randn(5, 3, 8, 8)}
    else:
        return
    got = session.run(["logits"], {key: value.numpy() for key, value in inputs.items()})[0]
    with torch.no_grad():
        wanted = model(**inputs).logits
    assert torch.allclose(torch.from_numpy(got), wanted, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model", "out.onnx"]


def test_large_models_keep_their_weights_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sparse("bert", tmp_path / "model")
    monkeypatch.setattr(exporter, "EXTERNAL", 1000)
    made = export(tmp_path / "model", tmp_path / "out.onnx")
    assert made.external
    data = tmp_path / "out.onnx.data"
    assert data.is_file()
    assert made.path.stat().st_size + data.stat().st_size == made.bytes
    onnxruntime.InferenceSession(str(made.path))


@pytest.mark.slow
def test_over_two_gigabytes(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=400_000, hidden_size=1408, num_hidden_layers=1, num_attention_heads=16)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    made = export(tmp_path / "model", tmp_path / "out.onnx")
    assert made.external
    assert made.bytes > 2**31


def test_a_graph_that_differs_is_refused(tmp_path: Path) -> None:
    save_sparse("bert", tmp_path / "model")
    with pytest.raises(ExportError, match=r"ONNX Runtime differs by .* more than 0"):
        export(tmp_path / "model", tmp_path / "out.onnx", tolerance=0)
    assert not (tmp_path / "out.onnx").exists()


def test_lost_zeros_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sparse("bert", tmp_path / "model")
    write = exporter._write

    def spoil(model: nn.Module, signature: object, path: Path, opset: int, external: bool) -> None:
        write(model, signature, path, opset, external)  # type: ignore[arg-type]
        graph = onnx.load(str(path))
        tensor = next(t for t in graph.graph.initializer if list(t.dims) == [32, 64] or list(t.dims) == [64, 32])
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[array == 0] = 1e-30
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save(graph, str(path))

    monkeypatch.setattr(exporter, "_write", spoil)
    with pytest.raises(ExportError, match=r"weight has .* zeros of .*, but no tensor of the graph"):
        export(tmp_path / "model", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"must end in \.onnx"):
        export(tmp_path, tmp_path / "out.pb")
    with pytest.raises(PlanError, match=r"no config\.json"):
        export(tmp_path, tmp_path / "out.onnx")
    folder = tiny.text_model(tmp_path / "model", layers=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        export(folder, tmp_path / "file" / "out.onnx")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(PlanError, match="cannot be loaded"):
        export(folder, tmp_path / "out.onnx")


def test_the_command(tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "model", layers=1)
    done = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "out.onnx")])
    assert done.exit_code == 0, done.output
    for word in ("opset 18", "input_ids batch × sequence", "largest difference", "zeros:"):
        assert word in done.output
    wrong = CliRunner().invoke(app, ["export", str(tmp_path / "modle"), str(tmp_path / "out.onnx")])
    assert wrong.exit_code == 1
    assert "did you mean" in wrong.output


def test_what_stands_beside_is_never_anothers(tmp_path: Path) -> None:
    """Files of another model under the same names are left alone, and named."""
    first, second = (tiny.text_model(tmp_path / f"of {layers}", layers=layers) for layers in (1, 2))
    made = export(first, tmp_path / "out" / "a.onnx")
    assert {"config.json", "tokenizer.json"} <= set(made.beside)
    other = export(second, tmp_path / "out" / "b.onnx")
    assert other.left == ("config.json",)
    assert (tmp_path / "out" / "config.json").read_bytes() == (first / "config.json").read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_cache_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), str(tmp_path / "out.onnx"), "--cache"])
    assert done.exit_code == 1
    assert "without a cache" in done.output
