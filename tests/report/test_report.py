"""Reports of folders, and differences: zeros counted in the files themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from sparsify import Recipe, StateError
from sparsify.cli.app import app
from sparsify.report.difference import documents, together, weights
from sparsify.report.folder import read
from sparsify.report.saved import find
from sparsify.report.size import QUICK, THOROUGH, size_of
from sparsify.train.run import run
from tests import tiny
from tests.models import MODELS, build, save_sparse
from tests.train.test_train import recipe, settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `sparsify train`."""
    folder = tmp_path_factory.mktemp("report")
    tiny.text_model(folder / "model")
    tiny.tsv(folder / "train.tsv", 64, seed=1)
    tiny.tsv(folder / "eval.tsv", 20, seed=2)
    run(settings(folder), recipe(), folder / "out")
    return folder / "out"


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def test_zeros_are_those_in_the_file(trained: Path) -> None:
    """Against a count that knows nothing of anatomy or plans."""
    found = read(trained)
    tensors = load_file(trained / "model.safetensors")
    for name, count in found.census.tensors.items():
        assert (count.elements, count.nonzeros) == (tensors[name].numel(), int((tensors[name] != 0).sum()))
    encoder = {name: tensor for name, tensor in tensors.items() if ".encoder.layer." in name}
    linear = {name: t for name, t in encoder.items() if name.endswith("weight") and t.dim() == 2}
    wanted = {"encoder": encoder, "encoder linear": linear, "targeted": linear, "model": tensors}
    for name, parts in wanted.items():
        count = found.census.conventions[name]
        assert count.elements == sum(t.numel() for t in parts.values()), name
        assert count.nonzeros == sum(int((t != 0).sum()) for t in parts.values()), name
    assert found.census.conventions["targeted"].sparsity == pytest.approx(0.75, abs=1e-3)
    query = found.census.grid["attention.query"]
    assert list(query) == ["0", "1"]
    one = tensors["bert.encoder.layer.1.attention.self.query.weight"]
    assert query["1"].nonzeros == int((one != 0).sum())


def test_the_curves_are_those_of_the_training(trained: Path) -> None:
    curves = read(trained).curves()
    assert curves.metric_name == "accuracy"
    assert [step for step, _ in curves.metric] == [8, 16]
    assert curves.sparsity[0][1] == 0
    assert curves.sparsity[-1][1] == pytest.approx(0.75, abs=1e-3)


def test_the_command_shows_and_writes(trained: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    text = call("report", str(trained), "--html", str(page), "--png", str(picture))
    for word in ("targeted", "encoder linear", "75.", "ffn.down", "accuracy", "zstd", "16 steps"):
        assert word in text, word
    assert picture.read_bytes().startswith(b"\x89PNG")
    html = page.read_text()
    assert "<svg" in html
    assert "bert.encoder.layer.0.output.dense.weight" in html
    assert "http" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", ""), "nothing is loaded from anywhere"
    data = json.loads(call("report", str(trained), "--json"))
    assert data["density"]["targeted"]["sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert data["bytes"]["raw"] == (trained / "model.safetensors").stat().st_size
    assert data["bytes"]["zstd"] < data["bytes"]["raw"]
    assert len(data["curves"]["accuracy"]) == 2


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].make is None])
def test_any_known_model_without_a_training_of_ours(tmp_path: Path, name: str) -> None:
    model = save_sparse(name, tmp_path, 0.3)
    found = read(tmp_path)
    assert 0.2 < found.census.conventions["encoder linear"].sparsity < 0.4
    parameters = sum(p.numel() for p in model.parameters())
    assert found.census.conventions["model"].elements == parameters, "a tied tensor counts once"
    assert found.recipe is None
    found.picture()


@pytest.mark.parametrize(("name", "layers"), [("bert", "linear layers"), ("resnet", "convolutions")])
def test_the_engine_is_spoken_of_by_what_a_model_is_made_of(tmp_path: Path, name: str, layers: str) -> None:
    save_sparse(name, tmp_path, 0.5)
    (said,) = (value for what, value in read(tmp_path).facts() if what == "sparse engine")
    assert f"{layers} with 50% zeros" in said


def test_several_files_and_foreign_tensors(tmp_path: Path) -> None:
    model = build("bert")
    model.save_pretrained(tmp_path, max_shard_size="20KB")  # type: ignore[operator]
    assert len(find(tmp_path).files) > 1
    assert read(tmp_path).census.conventions["model"].elements == sum(p.numel() for p in model.parameters())
    lone = tmp_path / "lone"
    lone.mkdir()
    save_file({"a.weight": torch.tensor([[0.0, 1.0], [2.0, -0.0]])}, lone / "model.safetensors")
    found = read(lone)
    assert found.census.conventions["model"].nonzeros == 2
    assert "no config.json" in found.notes[0]


def test_bad_folders(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(StateError, match="no such folder"):
        read(tmp_path / "none")
    with pytest.raises(StateError, match="there are no weights here"):
        read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(StateError, match=r"model\.safetensors cannot be read"):
        read(tmp_path)
    output = call("report", str(tmp_path), code=1)
    assert "Traceback" not in output


def test_sizes(tmp_path: Path) -> None:
    import zstandard

    small = tmp_path / "small"
    small.write_bytes(bytes(1000) + b"abc" * 50)
    size = size_of(small)
    assert (size.raw, size.level) == (1150, THOROUGH)
    large = tmp_path / "large"
    large.write_bytes(bytes(9_000_000))
    assert size_of(large).level == QUICK
    assert size_of([small, small]).raw == 2300
    assert size.zstd <= len(zstandard.compress(small.read_bytes(), THOROUGH)) + 20


# ------------------------------------------------------------------ differences


def test_documents_differ_by_path() -> None:
    before: Any = {"a": 1, "list": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "gone": True}
    after: Any = {"a": 1, "list": [{"name": "y", "v": 3}, {"name": "x", "v": 1}], "new": [1]}
    changes = {c.path: (c.before, c.after) for c in documents(before, after)}
    assert changes == {"list[y].v": (2, 3), "gone": (True, "–"), "new[0]": ("–", 1)}
    assert documents(before, before) == []


def test_masks_overlap_as_counted_by_hand(tmp_path: Path) -> None:
    first = torch.tensor([[1.0, 0, 2, 0], [3, 4, 0, 0]])
    second = torch.tensor([[1.0, 5, 0, 0], [3, 9, 0, 0]])
    for name, tensor in (("a", first), ("b", second)):
        save_file(
            {"w": tensor, f"only_{name}": tensor.clone(), "bias": tensor[0].clone()}, tmp_path / f"{name}.safetensors"
        )
    found = weights(find(tmp_path / "a.safetensors"), find(tmp_path / "b.safetensors"))
    (overlap,) = found.overlaps
    assert (overlap.kept_before, overlap.kept_after, overlap.kept_both, overlap.equal) == (4, 4, 3, 5)
    assert overlap.jaccard == 3 / 5
    assert overlap.overlap == 3 / 4
    assert overlap.by_chance == pytest.approx((0.5 * 0.5) / (0.5 + 0.5 - 0.25))
    assert found.only_before == ("only_a",)
    assert found.only_after == ("only_b",)
    assert together("all", list(found.overlaps)).jaccard == 3 / 5


def test_a_body_compares_with_the_same_body_under_a_head(trained: Path) -> None:
    found = weights(find(trained.parent / "model"), find(trained))
    assert "bert.encoder.layer.0.output.dense.weight" in {overlap.name for overlap in found.overlaps}
    sparse = [overlap for overlap in found.sparse() if ".encoder." in overlap.name]
    assert all(overlap.kept_before == overlap.elements for overlap in sparse)
    assert together("", sparse).kept_after == pytest.approx(0.25 * together("", sparse).elements, rel=1e-2)


def test_the_command_tells_kinds_apart(trained: Path, tmp_path: Path) -> None:
    text = call("diff", "gmp", "gmp-global")
    assert "scope.type" in text
    assert "global" in text
    assert "no difference" in call("diff", "gmp", "gmp") or "the same" in call("diff", "gmp", "gmp")
    assert "Jaccard" in call("diff", str(trained.parent / "model"), str(trained))
    plans = []
    for sparsity in ("0.5", "0.8"):
        words = ("plan", "gmp", "--set", f"sparsity={sparsity}", "--model", str(trained), "--steps", "100", "--json")
        plans.append(tmp_path / f"{sparsity}.json")
        plans[-1].write_text(call(*words))
    changes = json.loads(call("diff", *map(str, plans), "--json"))
    assert any(change["path"].endswith("expected_nonzeros") for change in changes)
    assert "only two of a kind" in call("diff", "gmp", str(trained), code=1)
    assert "did you mean 'gmp'" in call("diff", "gmpp", "gmp", code=1)
    assert "no plan" in call("diff", str(trained / "config.json"), str(plans[0]), code=1)
    assert "modifiers" not in call("diff", str(trained / "report.json"), str(trained / "report.json"))
    assert isinstance(nn.Linear(1, 1), nn.Module)
    assert Recipe.load("gmp").name == "gmp"
