"""`sparsify train --compact --pack`: from data to a smaller model and a small file in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsify import load
from sparsify.cli.app import app
from sparsify.storage import from_packed
from tests import tiny

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def test_a_run_ends_in_a_compact_and_a_packed_model(tmp_path: Path) -> None:
    tiny.text_model(tmp_path / "model")
    tiny.tsv(tmp_path / "train.tsv", 64, seed=1)
    tiny.tsv(tmp_path / "dev.tsv", 16, seed=2)
    out = tmp_path / "out"
    words = ["train", "--task", "text-classification", "--model", str(tmp_path / "model"), "--out", str(out)]
    words += ["--train", str(tmp_path / "train.tsv"), "--eval", str(tmp_path / "dev.tsv"), "--max-length", "16"]
    words += [
        "--epochs",
        "5",
        "--batch-size",
        "8",
        "--recipe",
        "heads-and-neurons",
        "--set",
        "every=1",
        "--compact",
        "--pack",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "compact: " in text
    assert "smaller than its weights" in text
    assert "sparsify.load(" in text
    small, packed, whole = load(out / "compact"), from_packed(out / "model.packed"), load(out)
    counts = [sum(p.numel() for p in model.parameters()) for model in (small, packed, whole)]
    assert counts[0] == counts[1] < counts[2]
    tokens = torch.arange(4, 12).view(1, 8)
    with torch.no_grad():
        logits = [model(input_ids=tokens).logits for model in (small, packed, whole)]
    assert torch.equal(logits[0], logits[1])
    assert torch.allclose(logits[0], logits[2], atol=1e-5)
    assert (out / "compact" / "tokenizer.json").is_file()
    assert json.loads((out / "compact" / "report.json").read_text())["training"]
    again = CliRunner().invoke(app, ["report", str(out / "compact")])
    assert again.exit_code == 0, again.output
    assert CliRunner().invoke(app, ["export", str(out / "compact"), str(tmp_path / "small.onnx")]).exit_code == 0


def test_a_small_model_is_trained_on(tmp_path: Path) -> None:
    from sparsify import compact, save
    from sparsify.pretrained import load as read_model
    from tests.compaction.dead import kill

    tiny.text_model(tmp_path / "model")
    model = read_model(tmp_path / "model")
    kill(model)
    small = compact(model)
    save(small, tmp_path / "small")
    for path in (tmp_path / "model").glob("*token*"):
        (tmp_path / "small" / path.name).write_bytes(path.read_bytes())
    tiny.tsv(tmp_path / "train.tsv", 64, seed=1)
    tiny.tsv(tmp_path / "dev.tsv", 16, seed=2)
    out = tmp_path / "out"
    words = ["train", "--task", "text-classification", "--model", str(tmp_path / "small"), "--out", str(out)]
    words += ["--train", str(tmp_path / "train.tsv"), "--eval", str(tmp_path / "dev.tsv"), "--max-length", "16"]
    words += ["--epochs", "2", "--batch-size", "8", "--recipe", "gmp", "--set", "every=1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    again = load(out)
    inside = {f"bert.{name}": p.shape for name, p in small.named_parameters()}
    assert {name: p.shape for name, p in again.named_parameters() if name in inside} == inside
    report = CliRunner().invoke(app, ["report", str(out), "--json"])
    assert json.loads(report.output)["density"]["targeted"]["sparsity"] == pytest.approx(0.8, abs=0.01)
    plan = ["plan", "gmp", "--model", str(tmp_path / "small"), "--task", "text-classification", "--steps", "100"]
    assert CliRunner().invoke(app, plan).exit_code == 0
