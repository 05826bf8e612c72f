"""The demo, shortened: what it prints, and what it writes."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sparsify import Recipe
from sparsify.cli import demo
from sparsify.cli.app import app

ONNX = find_spec("onnxruntime") is not None
NEW = tuple(map(int, version("transformers").split(".")[:2])) >= demo.LEAST
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run two epochs of the demo; return its folder and its output."""
    if not NEW:
        pytest.skip("the demo is for newer transformers")
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(app, ["demo", "--epochs", "2", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_older_transformers_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")  # what is missing altogether is said first
    monkeypatch.setattr("sparsify.cli.demo.version", lambda name: "5.9.0")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "the demo needs transformers 5.12 or later, not 5.9.0: pip install" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_the_plan_comes_first_and_the_table_last(shown: tuple[Path, str]) -> None:
    _, text = shown
    places = [text.index(part) for part in ("expected non-zeros", "dense | sparse | compact", "Written to")]
    assert places == sorted(places)
    assert "zeros alone cost" in " ".join(text.replace("│", " ").split())
    assert "90.0% zero" in text


def test_what_the_demo_writes(shown: tuple[Path, str]) -> None:
    folder, _ = shown
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"recipe.yaml", "report.json", "picture.png", "index.html", "sparse/model.safetensors"} <= names
    assert {"compact/model.safetensors", "compact.packed", "sparse.packed"} <= names
    assert ("compact/model.onnx" in names) == ONNX
    assert "compact/sparsify_widths.json" not in names
    assert not [name for name in names if "part" in name]
    report = json.loads((folder / "report.json").read_text())
    assert report["sparse"]["density"]["targeted"]["nonzeros"] == 29_491
    assert report["dense"]["density"]["targeted"]["nonzeros"] == 294_912
    assert report["sparse"]["bytes"]["zstd"] < report["dense"]["bytes"]["zstd"] / 3
    assert report["sparse"]["bytes"]["raw"] == report["dense"]["bytes"]["raw"]
    assert report["verified"] is True
    compact = report["compact"]
    assert compact["parameters"] < 0.45 * report["dense"]["parameters"]
    assert compact["bytes"]["raw"] < 0.45 * report["dense"]["bytes"]["raw"]
    assert report["sparse"]["bytes"]["packed"] < report["sparse"]["bytes"]["zstd"]
    assert compact["latency_ms"] > 0
    assert (compact["onnxruntime_ms"] or 0) > 0 or not ONNX
    assert Recipe.load(folder / "recipe.yaml").sha256 == Recipe.load("demo").sha256
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_self_contained(shown: tuple[Path, str]) -> None:
    folder, _ = shown
    page = (folder / "index.html").read_text()
    assert "<svg" in page
    assert "learning rate starts again" in page, "why accuracy falls before anything is pruned"
    assert "attention.query" in page, "zeros by role and layer"
    assert "dense model: " in page
    assert not re.search(
        r"""(src|href)=["'](?!#|data:image/png;base64,)""", page.replace('xlink:href="#', "").replace('href="#', "")
    )


def test_the_saved_model_is_an_ordinary_one(shown: tuple[Path, str]) -> None:
    from transformers import AutoModelForImageClassification

    folder, _ = shown
    model = AutoModelForImageClassification.from_pretrained(folder / "sparse")
    zeros = sum(
        int((p == 0).sum())
        for n, p in model.named_parameters()
        if "layers" in n and n.endswith("weight") and p.dim() == 2
    )
    assert zeros == 294_912 - 29_491
    assert model(torch.zeros(1, 1, 8, 8)).logits.shape == (1, 10)


def test_the_compact_model_is_an_ordinary_one_too(shown: tuple[Path, str]) -> None:
    from transformers import AutoModelForImageClassification

    from sparsify.storage import from_packed

    folder, _ = shown
    model = AutoModelForImageClassification.from_pretrained(folder / "compact")
    assert (model.config.num_attention_heads, model.config.intermediate_size) == (2, 48)
    again = from_packed(folder / "compact.packed")
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(images).logits, again(images).logits)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_most_a_point_and_a_half_is_lost(seed: int, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--seed", str(seed)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sparse"]["accuracy"] >= report["dense"]["accuracy"] - 0.015
    assert report["dense"]["accuracy"] > 0.95
