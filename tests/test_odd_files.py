"""Files that are not what they should be, given to every command: one clear error, no wait, nothing half-written."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sparsify import StateError
from sparsify.cli.app import app
from sparsify.density import Count
from sparsify.errors import PlanError
from sparsify.files import read_json
from sparsify.pretrained import load
from sparsify.report.difference import weights
from sparsify.report.findings import findings
from sparsify.report.folder import read
from sparsify.report.saved import find
from sparsify.report.written import read_written
from sparsify.train.model import freeze
from tests.models import build

DEEP = "[" * 100_000
WRONG: tuple[Any, ...] = (None, True, 3, "x", [], [1], {"a": 1}, 10**30, "\ud800")


def call(*words: object, code: int = 1) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(done.exception, SystemExit | None), repr(done.exception)
    assert done.exit_code == code, done.output
    if code:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model."""
    build("bert").save_pretrained(tmp_path)  # type: ignore[operator]
    return tmp_path


# ------------------------------------------------------------------ JSON

REPORT: dict[str, Any] = {
    "format": 1,
    "training": {"steps": 3, "seconds": 1.5, "metrics": {"accuracy": 0.5}},
    "history": [{"step": 1, "sparsity": 0.5, "eval_accuracy": 0.5, "loss": 1}],
    "modifiers": {"prune": {"sparsity_at_threshold": 0.1, "sparsity": 0.2, "lambda": {"a": 1.0, "b": 2.0},
                                 "metrics": {"at_threshold": {"loss": 1.0}, "after": {"loss": 2.0}}},
                  "fill": {"returned": 3, "pruned": 4}, "other": {}},
    "plan": {"total_steps": 3, "steps_per_epoch": None, "modifiers": [{"key": "a", "begin": 1}]},
}  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in children for place in places(value, (*path, key)))]


def replaced(place: tuple[Any, ...], value: Any) -> Any:
    data = json.loads(json.dumps(REPORT))
    if not place:
        return value
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return data


def test_a_report_as_written(folder: Path) -> None:
    (folder / "report.json").write_text(json.dumps(REPORT))
    text = call("report", folder, code=0)
    assert "λ 1 to 2" in text
    assert "loss 1.0000 → 2.0000" in text
    assert "3 weights may grow again" in text
    assert read(folder).curves().metric == [(1, 0.5)]


def test_a_report_with_wrong_types(tmp_path: Path) -> None:
    """At every place every wrong value: an error with the place, or a report."""
    refused = 0
    for place in places(REPORT):
        for value in WRONG:
            path = tmp_path / "report.json"
            path.write_text(json.dumps(replaced(place, value)))
            try:
                written = read_written(path)
                findings(written)
                assert all(isinstance(step, int) for step, _ in written.points("eval_accuracy"))
            except StateError as error:
                refused += 1
                assert "report.json" in str(error)
                str(error).encode()
    assert refused > 50


@pytest.mark.parametrize(
    "text", ["", "{", DEEP, "9" * 5000, '{"training": {"steps": 1e999, "seconds": NaN}}', "nul", '"\\ud800"']
)
def test_json_that_cannot_be_read(folder: Path, text: str) -> None:
    (folder / "report.json").write_text(text)
    assert "report.json" in call("report", folder)
    (folder / "plan.json").write_text(text)
    call("diff", folder / "plan.json", folder / "plan.json")


def test_plans_with_wrong_types(folder: Path) -> None:
    path = folder / "plan.json"
    for value in WRONG:
        for data in (
            value,
            {"plan": value},
            {"modifiers": value},
            {"modifiers": [value]},
            {"modifiers": [{"name": value, "key": value}]},
        ):
            path.write_text(json.dumps(data))
            done = CliRunner().invoke(app, ["diff", str(path), str(path)])
            assert isinstance(done.exception, SystemExit | None), (data, done.exception)
    path.write_text(json.dumps({"modifiers": [json.loads("[" * 90 + "]" * 90)]}))
    call("diff", path, path, code=0)
    path.write_text('{"modifiers": [' + "[" * 500 + "]" * 500 + "]}")
    assert "nested deeper than 100 levels" in call("diff", path, path)


@pytest.mark.parametrize(
    "name", ["report.json", "config.json", "model.safetensors", "recipe.yaml", "model.safetensors.index.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "loop", "folder", "device"])
def test_files_of_a_folder_that_are_no_files(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(name if kind == "loop" else "/dev/zero")
    (folder / "self").symlink_to("self")
    code = 1 if name == "model.safetensors" else 0
    call("report", folder, code=code)
    call("diff", folder, folder, code=code)
    if name == "config.json":
        call("plan", "gmp", "--model", folder, "--steps", 100)
    assert "pytorch_model" not in os.listdir(folder)


def test_read_json_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "loop", tmp_path / "none", "/dev/zero", "a\0b", "x" * 9999):
        with pytest.raises(StateError, match="cannot be read"):
            read_json(path)


# ------------------------------------------------------------------ weights


def damaged(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    return {
        "empty": b"", "short": whole[:4], "no header": whole[:8], "half a header": whole[: header // 2], "no data": whole[: header + 8],
        "half": whole[: len(whole) // 2], "huge header": struct.pack("<Q", 2**62) + whole[8:], "other": b"\0" * 100, "json": b"{}",
        "deep": struct.pack("<Q", 100_000) + DEEP.encode(), "lies": whole.replace(b'"F32"', b'"F64"', 1), "type": whole.replace(b'"F32"', b'"Q99"', 1),
        "surrogate": whole.replace(b"bert.", b"\xed\xa0\x80xx", 1),
    }  # fmt: skip


def test_damaged_safetensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    for name, raw in damaged(path).items():
        path.write_bytes(raw)
        assert "model.safetensors cannot be read" in call("report", folder), name
        assert "model.safetensors cannot be read" in call("diff", path, path), name


def test_damaged_checkpoints_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(2, 2), "epoch": 3}, path)
    assert read(tmp_path).census.tensors == {"w": Count(4, 4)}
    whole = path.read_bytes()
    for raw in (
        b"",
        b"PK\x05\x06" + b"\0" * 18,
        whole[:100],
        whole[:-30],
        b"\x80\x04.",
        b"\x80\x04]q.",
        b"cos\nsystem\n(S'x'\ntR.",
        b"(" * 99999,
    ):
        path.write_bytes(raw)
        assert "pytorch_model.bin" in call("report", tmp_path)
    with zipfile.ZipFile(path, "w"):
        pass
    assert "is not a whole checkpoint" in call("report", tmp_path)
    for data in ({}, [1], {"model": {"w": torch.ones(2)}}, 3, {"epoch": 1}):
        torch.save(data, path)
        assert "pytorch_model.bin" in call("report", tmp_path)


FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16, torch.float64, torch.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_of_every_size_are_counted(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0.0, 1.0, -2.0], [-0.0, 0.5, 0.0]]).to(dtype)
    save_file({"w": tensor}, tmp_path / "model.safetensors")
    assert read(tmp_path).census.tensors == {"w": Count(6, 3)}
    (overlap,) = weights(find(tmp_path), find(tmp_path)).overlaps
    assert (overlap.kept_both, overlap.equal) == (3, 6)
    call("report", tmp_path, code=0)
    call("diff", tmp_path, tmp_path, code=0)


def test_other_numbers_are_named(tmp_path: Path) -> None:
    other = {
        "int8": torch.zeros(2, 2, dtype=torch.int8), "bool": torch.zeros(2, 2, dtype=torch.bool), "complex": torch.zeros(2, 2, dtype=torch.complex64),
        "w": torch.ones(2, 2), "none": torch.zeros(0, 3), "one": torch.tensor(1.0),
    }  # fmt: skip
    save_file(other, tmp_path / "model.safetensors")
    text = call("report", tmp_path, code=0)
    for kind in ("int8", "bool", "complex64"):
        assert f"not counted: 1 tensor of {kind}" in text
    call("diff", tmp_path, tmp_path, code=0)
    path = tmp_path / "sparse.bin"
    torch.save({"s": torch.eye(3).to_sparse(), "i": torch.eye(3).int()}, path)
    assert dict(find(path).tensors())["s"].equal(torch.eye(3))
    call("diff", path, path, code=0)


def test_weights_of_complex_numbers_are_no_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(
        {name: tensor.to(torch.complex64) for name, tensor in find(path).tensors()}, path, metadata={"format": "pt"}
    )
    assert "the model cannot be loaded: Casting complex values" in call("export", folder, folder / "x.onnx")
    assert "have no matrix of real numbers" in call("diff", folder, folder)
    assert not (folder / "x.onnx").exists()


def test_tensors_of_other_sizes_than_the_model(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = dict(find(path).tensors())
    name = "bert.encoder.layer.0.attention.self.query.weight"
    for other in (torch.ones(3), torch.ones(3, 5), torch.ones(()), torch.zeros(0, 4)):
        save_file({**tensors, name: other}, path)
        assert "has other sizes in the file and in the model" in call("report", folder)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": {"a": ["x"]}},
                                   {"weight_map": {"a": "../x.safetensors"}}, {"weight_map": {"a": "/dev/zero"}}, {"weight_map": {"a": ""}},
                                   {"weight_map": {"a": "x\0"}}, {"weight_map": {"a": ".."}}, {"weight_map": {"a": "none.safetensors"}}])  # fmt: skip
def test_indices_of_files(folder: Path, index: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    call("report", folder)


def _commands(folder: Path, out: Path) -> list[tuple[Any, ...]]:
    """Return every command that reads the weights of a folder."""
    data = out / "rows.csv"
    data.write_text("label,text\n0,bad\n1,good\n")
    train = ("train", "--task", "text-classification", "--model", folder, "--train", data, "--eval", data)
    return [("report", folder), ("diff", folder, folder), ("pack", folder, out / "x.packed"), (*train, "--out", out / "run"), ("benchmark", folder),
            ("compact", folder, out / "x"), ("permute", folder, out / "x"), ("export", folder, out / "x.onnx"),
            ("plan", "gmp", "--model", folder, "--steps", 100)]  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_indices_that_lead_out_of_the_folder(folder: Path, tmp_path_factory: Any, name: str) -> None:
    outside, out = tmp_path_factory.mktemp("elsewhere") / "weights.safetensors", tmp_path_factory.mktemp("out")
    names = list(dict(find(folder).tensors()))
    (folder / "model.safetensors").rename(outside)
    (folder / "link.safetensors").symlink_to(outside)
    for part, said in ((os.path.relpath(outside, folder), "is no file of this folder"),
                       (str(outside), "is no file of this folder"),
                       ("link.safetensors", "is a link that leads out of the folder")):  # fmt: skip
        (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, part)}))
        for words in _commands(folder, out):
            assert said in call(*words), words
    assert [path.name for path in out.iterdir()] == ["rows.csv"]


def test_links_of_the_hubs_cache_stay_readable(folder: Path, tmp_path_factory: Any) -> None:
    cache = tmp_path_factory.mktemp("models--x")
    snapshot, blobs = cache / "snapshots" / "123", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    names = list(dict(find(folder).tensors()))
    (folder / "model.safetensors").rename(blobs / "a")
    (snapshot / "part.safetensors").symlink_to("../../blobs/a")
    (snapshot / "config.json").write_text((folder / "config.json").read_text())
    (snapshot / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")})
    )
    call("report", snapshot, code=0)
    assert dict(load(snapshot).named_parameters())


def test_weights_that_the_configuration_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    assert "names a file of weights of its own" in call("compact", folder, folder.parent / "x")


def test_a_path_that_is_no_file_of_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.bin").symlink_to("loop.bin")
    (tmp_path / "text.txt").write_text("x")
    for name in ("pipe.safetensors", "folder.safetensors", "loop.bin", "text.txt", "none.bin", "loop.bin/x"):
        call("diff", tmp_path / name, tmp_path / name)
        call("report", tmp_path / name)
        call("plan", "gmp", "--model", tmp_path / name, "--steps", 100)
        call("export", tmp_path / name, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


# ------------------------------------------------------------------ configurations and flags


def test_configurations_with_wrong_values(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in [("hidden_size", "x"), ("hidden_size", -3), ("num_hidden_layers", 10**9), ("num_attention_heads", 0), ("architectures", [5]),
                       ("architectures", ["__version__"]), ("architectures", "Bert"), ("vocab_size", 1e300), ("hidden_act", "nope"),
                       ("model_type", "nope"), ("model_type", 3), ("num_labels", "x"), ("architectures", ["\ud800"])]:  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        for words in (("plan", "gmp", "--model", folder, "--steps", 100), ("report", folder)):
            done = CliRunner().invoke(app, list(map(str, words)))
            assert isinstance(done.exception, SystemExit | None), (key, value, repr(done.exception))
    for text in ("", "[]", DEEP, "{", "3"):
        (folder / "config.json").write_text(text)
        call("plan", "gmp", "--model", folder, "--steps", 100)
        call("report", folder, code=0)


@pytest.mark.parametrize("selectors", [["*"], ["re:.*"], ["type:Module"], ["embeddings", "bert*", "classifier"]])
def test_freezing_everything_is_refused(selectors: list[str]) -> None:
    with pytest.raises(PlanError, match="nothing in the model would be left to train"):
        freeze(build("bert"), selectors)


@pytest.mark.parametrize("selector", ["re:(", "re:(?=a)", "", "nope", "type:", "re:", "[", "\ud800"])
def test_freezing_what_is_no_selector(selector: str) -> None:
    with pytest.raises(PlanError, match="--freeze"):
        freeze(build("bert"), [selector])


HUGE = "1" + "0" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "gmp", "--model", ".", "--steps", HUGE],
        ["plan", "gmp", "--model", ".", "--steps-per-epoch", 10**18, "--epochs", 2],
        ["explain", "gmp", "--steps", 10**400],
        ["explain", "gmp", "--steps", "1e3"],
        ["explain", "gmp", "--set", f"sparsity={HUGE}"],
        ["explain", "gmp", "--set", "sparsity=.nan"],
        ["explain", "gmp", "--set", "=1"],
        ["new", "--model", ".", "--goal", "size", "--sparsity", "nan"],
        ["export", ".", "x.onnx", "--opset", 0],
        ["export", ".", "x.onnx", "--opset", -1],
        ["export", ".", "x.onnx", "--tolerance", "nan"],
        ["export", ".", "x.onnx", "--tolerance", "inf"],
        ["demo", "--seed", HUGE],
        ["demo", "--seed", -1],
        ["demo", "--epochs", 10**12],
        *(["train", "--task", "text-classification", "--model", ".", "--train", "x", "--eval", "x", "--out", "y", flag, value]
          for flag, value in [("--lr", "nan"), ("--lr", "inf"), ("--epochs", "nan"), ("--epochs", "1e300"), ("--warmup", "nan"),
                              ("--weight-decay", "nan"), ("--weight-decay", "inf"), ("--max-grad-norm", "nan"), ("--seed", 2**32),
                              ("--batch-size", HUGE), ("--batch-size", 0), ("--max-length", 10**30), ("--accumulate", -1)]),
    ],
    ids=lambda words: " ".join(map(str, words))[-40:],
)  # fmt: skip
def test_flags_without_sense(words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 2 or (done.exit_code == 1 and "--set" in words)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("opset", [29 + 970, 10**30])
def test_opsets_that_there_are_not(folder: Path, opset: int) -> None:
    pytest.importorskip("onnxscript")
    assert f"opset {opset}: the versions are 18 to " in call(
        "export", folder, folder / "out" / "x.onnx", "--opset", opset
    )
    assert not (folder / "out").exists()
