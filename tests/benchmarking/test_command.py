"""`sparsify benchmark`: whole runs on small models, everything it writes, everything it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from sparsify import compact, save
from sparsify.benchmarking.engines import ENGINES
from sparsify.benchmarking.results import read_result
from sparsify.benchmarking.subjects import inputs_of, labels, subjects
from sparsify.cli.app import app
from sparsify.cli.benchmark import NAMES
from sparsify.errors import BenchmarkError
from sparsify.export import onnx as exporter
from sparsify.storage import pack
from tests import tiny
from tests.models import build, save_sparse

QUICK = ("--rounds", "6", "--seconds", "0", "--no-memory", "--threads", "1")


def call(*words: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["benchmark", *map(str, words)])


def scored(folder: Path, **metrics: float) -> Path:
    """Write metrics beside a model, as a training does."""
    (folder / "report.json").write_text(json.dumps({"training": {"steps": 1, "seconds": 1.0, "metrics": metrics}}))
    return folder


def half(folder: Path) -> int:
    """Let every second row of the linear weights in a folder be zero; return how many zeros that makes."""
    tensors, zeros = load_file(folder / "model.safetensors"), 0
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and "embeddings" not in name:
            tensor[::2] = 0
            zeros += tensor.numel() // 2
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return zeros


@dataclass(frozen=True)
class Run:
    """A dense model, a sparse one, and what was found."""

    dense: Path
    sparse: Path
    zeros: int
    done: Result
    json: Path
    html: Path
    png: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Measure a BERT, half of it zero, against itself, on two engines and two shapes, with everything that is written."""
    place = tmp_path_factory.mktemp("benchmark")
    dense = scored(tiny.text_model(place / "dense", layers=1), accuracy=0.9, loss=0.3)
    shutil.copytree(dense, sparse := place / "spar[red]se")
    zeros = half(scored(sparse, accuracy=0.8, loss=0.5, runtime=1.0, samples_per_second=40.0))
    html, png = place / "out.html", place / "out.png"
    done = call(
        sparse, "--against", dense, "--engine", "torch,onnxruntime", "--batch-size", "2", "--batch-size", "1",
        "--seq-len", 16, "--rounds", 6, "--seconds", 0, "--threads", 1, "--json", "--html", html, "--png", png,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (place / "out.json").write_text(done.stdout)
    return Run(dense, sparse, zeros, done, place / "out.json", html, png)


def test_what_is_counted_is_exact(run: Run) -> None:
    found = read_result(run.json)
    assert (found.against, found.threads, found.engines) == ("dense", 1, ["torch", "onnxruntime"])
    dense, sparse = found.models
    assert (dense.zeros, sparse.zeros) == (0, run.zeros)
    file = run.sparse / "model.safetensors"
    assert (dense.disk, sparse.disk) == (file.stat().st_size, file.stat().st_size)
    assert sparse.compressed < 0.8 * dense.compressed
    tensors = load_file(file).values()
    assert (
        sparse.memory == sum(t.numel() * 4 for t in tensors) + 2 * 64 * 8
    )  # positions and types: two buffers of int64
    assert sparse.metrics == {"accuracy": 0.8, "loss": 0.5}


def test_every_pair_is_measured_for_every_shape(run: Run) -> None:
    found = read_result(run.json)
    assert [(case.batch, case.length, case.rounds) for case in found.cases] == [(2, 16, 6), (1, 16, 6)]
    for case in found.cases:
        assert {(t.model, t.engine) for t in case.timings} == {
            (model, engine) for model in ("dense", "spar[red]se") for engine in ("torch", "onnxruntime")
        }
        weights = 16 * case.batch * 2 * (4 * 32 * 32 + 2 * 32 * 64) + case.batch * 2 * 32 * 32  # layers; the pooler
        attention = 2 * case.batch * 2 * 16 * 16 * 32
        assert case.flops["dense"].dense == case.flops["dense"].effective == weights + attention
        assert case.flops["spar[red]se"].effective == weights // 2 + attention
        for timing in case.timings:
            assert 0 < timing.seconds.low <= timing.seconds.median <= timing.seconds.high
            assert timing.share == pytest.approx((weights + attention) / timing.seconds.median / case.rate.median)
            assert (timing.speedup is None) == (timing.model == "dense")
            assert (timing.engine_speedup is None) == (timing.engine == "torch")
            assert timing.peak is not None, found.notes
            assert timing.peak.whole > timing.peak.own > 0
        sparse = case.timing("spar[red]se", "torch")
        assert sparse.theoretical == pytest.approx((weights + attention) / (weights / 2 + attention))


def test_pages_and_pictures_show_it(run: Run) -> None:
    assert run.png.read_bytes().startswith(b"\x89PNG")
    page = run.html.read_text()
    for word in ("spar[red]se", "onnxruntime", "batch 2 × 16 tokens", "Pareto line", "50.00%", "GFLOP/s", "own"):
        assert word in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "https://matplotlib.org", ""
    ).replace("http://creativecommons.org", "")
    assert f"Written to {run.png}" in run.done.stderr


def test_results_are_drawn_together(run: Run, tmp_path: Path) -> None:
    other = json.loads(run.json.read_text())
    other["models"][1]["name"] = "other"
    for case in other["cases"]:
        case["flops"]["other"] = case["flops"].pop("spar[red]se")
        for timing in case["timings"]:
            timing["model"] = timing["model"].replace("spar[red]se", "other")
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = call(run.json, tmp_path / "other.json", "--png", tmp_path / "all.png", "--metric", "loss")
    assert done.exit_code == 0, done.output
    assert "loss against size and speed of 3 models" in done.output
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_what_are_no_results_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    data = json.loads(run.json.read_text())
    (tmp_path / "nobody.json").write_text(json.dumps({**data, "against": "nobody"}))
    (tmp_path / "half.json").write_text(json.dumps({**data, "models": data["models"][:1]}))
    data["cases"][0]["timings"][0]["seconds"]["median"] = "fast"
    (tmp_path / "hurt.json").write_text(json.dumps(data))
    png = tmp_path / "all.png"
    for name, wanted in (
        ("none.json", "no such file"),
        ("plan.json", "is no result of `sparsify benchmark --json`"),
        ("nobody.json", "`against` is 'nobody', which is none of `models`"),
        ("half.json", "`cases[0].timings` has not one entry for each model"),
        ("hurt.json", "cases[0].timings[0].seconds.median"),
    ):
        done = call(tmp_path / name, "--png", png)
        assert (done.exit_code, wanted in done.output) == (1, True), done.output
    assert not png.exists()
    assert call(run.json).exit_code == 2
    assert call(run.json, run.dense, "--png", png).exit_code == 2


def test_images_by_themselves_in_the_terminal(tmp_path: Path) -> None:
    folder = tiny.image_model(tmp_path / "image")
    done = call(folder, *QUICK, "--png", tmp_path / "out.png")
    assert done.exit_code == 0, done.output
    for word in (
        "ViTForImageClassification",
        "batch 1: 6 rounds",
        "GFLOP/s",
        "by FLOPs",
        "there is nothing to skip",
        "none known",
    ):
        assert word in done.output
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    done = call(folder, *QUICK, "--seq-len", 8)
    assert (done.exit_code, "takes images, which have no length" in done.output) == (1, True)


def test_compiled_models_are_measured_or_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.text_model(tmp_path / "model", layers=1)
    monkeypatch.setattr(ENGINES["torch-compile"], "missing", lambda: "no compiler here")
    done = call(folder, *QUICK, "--seq-len", 8, "--engine", "torch-compile", "--engine", "torch")
    assert done.exit_code == 0, done.output
    assert "note: torch-compile was left out: no compiler here" in done.output
    done = call(folder, *QUICK, "--engine", "torch-compile")
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, "torch-compile was left out: no compiler here")


@pytest.mark.slow
def test_a_compiled_model_computes_the_same(tmp_path: Path) -> None:
    (subject,) = subjects([tiny.text_model(tmp_path / "model", layers=1)])
    from sparsify.benchmarking.engines import Prepared

    if reason := ENGINES["torch-compile"].missing():
        pytest.skip(reason)
    opened = {
        name: ENGINES[name].open(Prepared(subject.folder, subject.model), 1) for name in ("torch", "torch-compile")
    }
    for length in range(4, 16):  # more shapes than torch compiles by itself
        (inputs,) = inputs_of([subject], 2, length)
        found = [bind(inputs)().last_hidden_state for bind in opened.values()]  # type: ignore[attr-defined]
        assert torch.allclose(*found, atol=1e-5)


def test_the_sparse_engine_is_measured_beside_torch_and_computes_the_same(tmp_path: Path) -> None:
    folder = tiny.text_model(tmp_path / "model", layers=1)
    half(folder)
    if ENGINES["sparse"].missing():
        pytest.skip("the engine was not compiled")
    done = call(folder, *QUICK, "--seq-len", 8, "--engine", "torch,sparse", "--json")
    assert done.exit_code == 0, done.output
    timings = json.loads(done.stdout)["cases"][0]["timings"]
    assert [timing["engine"] for timing in timings] == ["torch", "sparse"]
    assert timings[1]["engine_speedup"]["median"] > 0
    assert "the sparse engine multiplies by what is not zero" in timings[1]["why"]
    from sparsify.benchmarking.engines import Prepared

    (subject,) = subjects([folder])
    opened = [ENGINES[name].open(Prepared(subject.folder, subject.model), 1) for name in ("torch", "sparse")]
    for length in (5, 9):
        (inputs,) = inputs_of([subject], 2, length)
        found = [bind(inputs)().last_hidden_state for bind in opened]  # type: ignore[attr-defined]
        assert torch.allclose(*found, atol=1e-5)


def test_a_model_with_fewer_inputs_gets_the_same_texts(tmp_path: Path) -> None:
    for name in ("bert", "distilbert"):
        save_sparse(name, tmp_path / name)
    found = subjects([tmp_path / "bert", tmp_path / "distilbert"])
    first, second = inputs_of(found, 3, 12)
    assert set(first) - set(second) == {"token_type_ids"}
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert first["attention_mask"].all()
    assert first["input_ids"].shape == (3, 12)


def test_packed_files_are_measured_like_the_folders_in_them(tmp_path: Path) -> None:
    """Widths, metrics and zeros are in the file, and so is what `--memory` loads in a process of its own."""
    model = build("bert")
    model.save_pretrained(tmp_path / "dense")
    with torch.no_grad():
        for number, layer in enumerate(model.bert.encoder.layer):
            layer.output.dense.weight[:, : 8 + 8 * number] = 0
    save(compact(model.eval()), tmp_path / "small")
    scored(tmp_path / "small", accuracy=0.5)
    for name in ("dense", "small"):
        pack(tmp_path / name, tmp_path / f"{name}.packed")
    words = ("--seq-len", 8, "--json", "--threads", 1, *QUICK[:4])
    done = call(tmp_path / "small.packed", tmp_path / "small", "--against", tmp_path / "dense.packed", *words)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    dense, packed, folder = data["models"]
    assert [each["name"] for each in (dense, packed, folder)] == ["dense.packed", "small.packed", "small"]
    assert packed["metrics"] == folder["metrics"] == {"accuracy": 0.5}
    assert packed["weights"] == folder["weights"] < dense["weights"]
    assert packed["memory"] == folder["memory"]
    assert packed["disk"] == (tmp_path / "small.packed").stat().st_size < folder["disk"]
    (tmp_path / "cut.packed").write_bytes((tmp_path / "small.packed").read_bytes()[:2000])
    done = call(tmp_path / "cut.packed", *words)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_labels_tell_folders_apart() -> None:
    assert labels([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert labels([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]
    assert labels([Path("x"), Path("x")]) == ["x (1)", "x (2)"]
    assert labels([Path("x"), Path("x/x")]) == ["x (1)", "x (2)"]


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, image = tiny.text_model(tmp_path / "text", layers=1), tiny.image_model(tmp_path / "image")
    shutil.copytree(text, empty := tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    shutil.copytree(text, hurt := tmp_path / "hurt")
    (hurt / "model.safetensors").write_bytes(b"short")
    for words, wanted in (
        ((tmp_path / "txet",), "no such folder (did you mean"),
        ((empty,), "there are no weights here"),
        ((hurt,), "the model cannot be loaded"),
        ((text, "--seq-len", 65), "--seq-len 65: the model has positions for 64 tokens"),
        ((text, "--against", image), "only models of the same inputs can be compared"),
        ((text, "--metric", "f1"), "no model has it"),
    ):
        done = call(*words, *QUICK)
        assert done.exit_code == 1, done.output
        last = done.output.splitlines()[-1]
        assert wanted in last, done.output
        assert "Traceback" not in done.output
    monkeypatch.setattr(exporter, "TOLERANCE", 0)
    monkeypatch.setattr(exporter, "_write", refuse)
    done = call(text, *QUICK, "--engine", "onnxruntime")
    assert (done.exit_code, "BertModel cannot be exported" in done.output) == (1, True), done.output


def refuse(*arguments: object) -> None:
    """Fail as the exporter does."""
    from sparsify.errors import ExportError

    raise ExportError("BertModel cannot be exported to ONNX: an operation that it lacks")


@pytest.mark.parametrize(("words", "wanted"), [
    (("--engine", "onnx-runtime"), "did you mean"),
    (("--engine", "torch,"), "there is no engine ''"),
    (("--batch-size", "0"), "'0' is no whole number"),
    (("--batch-size", "1,²"), "is no whole number"),
    (("--seq-len", "9" * 5000), "is no whole number"),
    (("--rounds", "5"), "--rounds"),
    (("--seconds", "nan"), "--seconds"),
])  # fmt: skip
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...], wanted: str) -> None:
    done = call(tmp_path, *words)
    assert done.exit_code == 2
    assert wanted in " ".join(done.output.replace("│", " ").split())


def test_the_command_names_every_engine() -> None:
    assert tuple(ENGINES) == NAMES
    for engine in ENGINES.values():
        assert engine.about


def test_a_result_needs_finite_numbers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nan.json").write_text(run.json.read_text().replace('"accuracy": 0.8', '"accuracy": NaN'))
    with pytest.raises(BenchmarkError, match="accuracy"):
        read_result(tmp_path / "nan.json")
