"""Folders of transformers, packed and unpacked: the same files, the same model; by the command line, too."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel
from typer.testing import CliRunner

from sparsify import engine, pretrained
from sparsify.cli.app import app
from sparsify.errors import StateError
from sparsify.report import saved
from sparsify.storage import PackedFile, from_packed, output_error, pack, unpack
from tests import tiny
from tests.storage.drawn import same

RECIPE = "version: 1\nname: mine\nmodifiers:\n  - {type: prune, sparsity: 0.8}\n"


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert "Traceback" not in done.output
    assert done.exit_code == code, done.output
    return done.output


def sparse(folder: Path, **saving: object) -> Path:
    """Write a BERT with 80 % zeros in its layers, with a tokenizer and a recipe."""
    tiny.text_model(folder)
    model = AutoModel.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layer." in name and parameter.dim() > 1:
                parameter[torch.rand(parameter.shape, generator=generator) < 0.8] = 0
    for old in folder.glob("*.safetensors"):
        old.unlink()
    model.save_pretrained(folder, **saving)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "report.json").write_text('{"plan": {"total_steps": 100}}')
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    pack(folder, folder.parent / "packed")
    return folder.parent / "packed"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_folder_comes_back_byte_for_byte(folder: Path, packed: Path, tmp_path: Path) -> None:
    written = unpack(packed, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)
    assert {path.name for path in written} == set(contents(folder))
    assert packed.stat().st_size < (folder / "model.safetensors").stat().st_size


def test_a_folder_of_several_files_is_split_in_the_same_way(tmp_path: Path) -> None:
    folder = sparse(tmp_path / "model", max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    pack(folder, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)
    found = from_packed(tmp_path / "packed").state_dict()
    for name, tensor in AutoModel.from_pretrained(folder).state_dict().items():
        assert same(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_model_is_the_same(dtype: torch.dtype, folder: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder).to(dtype).save_pretrained(tmp_path / "model")
    pack(tmp_path / "model", tmp_path / "packed")
    found = from_packed(tmp_path / "packed")
    wanted = AutoModel.from_pretrained(tmp_path / "model", dtype=dtype)
    assert type(found) is type(wanted)
    assert not found.training
    for name, tensor in wanted.state_dict().items():
        assert same(found.state_dict()[name], tensor), name


def test_a_file_of_weights_and_its_metadata(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 4).bfloat16(),
        "a": torch.zeros(0, 2),
        "c": torch.tensor(7),
        "d": torch.ones(5, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "in.safetensors", metadata={"of": 'mine "é"'})
    pack(tmp_path / "in.safetensors", tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "in.safetensors").read_bytes()
    save_file(tensors, tmp_path / "in.safetensors")
    pack(tmp_path / "in.safetensors", tmp_path / "packed")
    assert set(contents(tmp_path)) == {"in.safetensors", "out.safetensors", "packed"}
    unpack(tmp_path / "packed", tmp_path / "folder")
    back = load_file(tmp_path / "folder" / "in.safetensors")
    assert all(same(back[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(StateError, match="no config.json"):
        from_packed(tmp_path / "packed")


def test_ties_of_a_state_dict_unpack_to_files_that_load(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    pack({"a": layer.weight, "b": layer.weight}, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "out.safetensors")
    back = load_file(tmp_path / "out.safetensors")
    assert same(back["a"], layer.weight.detach())
    assert same(back["b"], layer.weight.detach())


def test_what_is_left_out_is_said_and_pickles_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = sparse(tmp_path / "model")
    (copy / "checkpoint-8").mkdir()
    torch.save({}, copy / "optimizer.pt")
    torch.save({}, copy / "training_args.bin")
    (copy / "model.onnx").write_bytes(b"x")
    summary = pack(copy, tmp_path / "packed")
    assert set(summary.left_out) == {"checkpoint-8/", "optimizer.pt", "training_args.bin", "model.onnx"}
    assert "left out: checkpoint-8/" in call("pack", copy, tmp_path / "packed")
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    for path in (copy, copy / "pytorch_model.bin"):
        assert "is a pickle, which can hold code" in call("pack", path, tmp_path / "other", code=1)
    assert not (tmp_path / "other").exists()


def test_a_packed_file_is_written_anew_and_never_packed(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, folder / "model.packed")
    assert not first.left_out
    again = pack(folder, folder / "model.packed")
    assert again.left_out == ("model.packed",)
    assert again.bytes == first.bytes
    assert "model.packed" not in PackedFile(folder / "model.packed").beside()
    claimed = folder / "model.packed"
    before = claimed.read_bytes()

    def slow(*given: object) -> int:
        claimed.write_bytes(before + b"\0")
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsify.storage.container.write", slow)
        with pytest.raises(StateError, match=r"model\.packed has changed meanwhile"):
            pack(folder, claimed)
    assert claimed.read_bytes() == before + b"\0"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_odd_folders_are_told(folder: Path, packed: Path, tmp_path: Path) -> None:
    assert "is packed already" in call("pack", packed, tmp_path / "again", code=1)
    copy = sparse(tmp_path / "model", max_shard_size="30KB")
    first, second = sorted(copy.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    assert "two tensors have the same name" in call("pack", copy, tmp_path / "again", code=1)
    second.unlink()
    assert f"{second.name} is missing" in call("pack", copy, tmp_path / "again", code=1)
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(first.read_bytes())
    assert "cannot be read" in call("pack", copy, tmp_path / "again", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_nothing_is_overwritten(folder: Path, packed: Path, tmp_path: Path) -> None:
    before = contents(folder)
    assert "is among what is packed" in call("pack", folder, folder / "model.safetensors", code=1)
    assert "is a folder" in call("pack", folder, tmp_path, code=1)
    assert "not an empty folder" in call("unpack", packed, folder, code=1)
    assert "name a folder" in call("unpack", packed, tmp_path / "x.safetensors", code=1)
    assert contents(folder) == before
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    for path, why in (
        (folder / "model.safetensors", "no packed file"),
        (folder / "config.json", "cannot be read"),
        (folder, "is a folder"),
        (tmp_path / "none", "No such file"),
    ):
        assert why.lower() in call("unpack", path, tmp_path / "out", code=1).lower()
    assert "did you mean" in call("pack", folder.parent / "modell", tmp_path / "out", code=1)


def test_the_command_shows_groups_and_the_bound(folder: Path, tmp_path: Path) -> None:
    text = call("pack", folder, tmp_path / "packed", "--tensors")
    for word in (
        "encoder linear",
        "embeddings",
        "rest",
        "all tensors",
        "× the order-0 bound",
        "bit for bit",
        "gaps float32",
    ):
        assert word in text, word
    assert "bit for bit" in call("unpack", tmp_path / "packed", tmp_path / "out")
    data = json.loads(call("pack", folder, tmp_path / "packed", "--json"))
    tensors = load_file(folder / "model.safetensors")
    linear = [t for name, t in tensors.items() if ".layer." in name and t.dim() == 2]
    encoder = next(group for group in data["groups"] if group["name"] == "encoder linear")
    assert encoder["elements"] == sum(t.numel() for t in linear)
    assert encoder["kept"] == sum(int(t.count_nonzero()) for t in linear)
    assert data["total"]["dense"] == sum(t.numel() * t.element_size() for t in tensors.values())
    sizes = data["bytes"]
    assert sizes["file"] == (tmp_path / "packed").stat().st_size
    assert sizes["headers"] + sizes["beside"] + data["total"]["stored"] == sizes["file"]


def test_integers_are_measured_on_weights_and_outputs(folder: Path, tmp_path: Path) -> None:
    data = json.loads(call("pack", folder, tmp_path / "packed", "--values", "int8", "--json"))
    lossy = [row for row in data["tensors"] if row["value_type"] == "int8"]
    assert {row["group"] for row in lossy} == {"encoder linear"}
    before, after = pretrained.load(folder), from_packed(tmp_path / "packed")
    originals, parameters = dict(before.named_parameters()), dict(after.named_parameters())
    for row in lossy:
        first, second = (each[row["name"]].detach() for each in (originals, parameters))
        assert float((first - second).abs().max() / first.abs().max()) == pytest.approx(
            row["error"]["largest"], rel=1e-4
        )
        assert torch.equal(first == 0, second == 0)
    error = output_error(before, after)
    assert error is not None
    assert 0 < error.relative < 0.05
    assert data["output_error"]["relative"] == pytest.approx(error.relative)
    text = call("pack", folder, tmp_path / "packed", "--values", "int4")
    assert "do NOT come back bit for bit" in text
    assert "outputs on made-up inputs" in text
    assert "are not what they were" in call("unpack", tmp_path / "packed", tmp_path / "out")
    same_model = output_error(before, before)
    assert same_model is not None
    assert same_model.largest == 0


def test_wrong_flags(folder: Path, tmp_path: Path) -> None:
    assert "int8" in call("pack", folder, tmp_path / "x", "--values", "int9", code=2)
    assert "--embeddings" in call("pack", folder, tmp_path / "x", "--embeddings", code=2)


def test_reports_and_differences_read_packed_files(folder: Path, packed: Path) -> None:
    first, second = (json.loads(call("report", path, "--json")) for path in (folder, packed))
    for key in ("density", "roles", "layers", "tensors", "recipe", "metrics"):
        assert first[key] == second[key], key
    assert second["recipe"]["name"] == "mine"
    assert "targeted" in second["density"]
    assert second["bytes"]["raw"] == packed.stat().st_size
    total = json.loads(call("diff", folder, packed, "--json"))["total"]
    assert total["equal"] == total["elements"]
    assert total["jaccard"] == 1


def test_a_report_says_that_values_are_integers(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "small", values="int8", level=3)
    notes = json.loads(call("report", tmp_path / "small", "--json"))["notes"]
    assert "12 tensors are stored as int8: their values are not exact" in notes
    assert not any("int8" in note for note in json.loads(call("report", packed, "--json"))["notes"])


def test_unknown_tensors_and_files_are_refused(packed: Path) -> None:
    found = PackedFile(packed)
    name = found.keys()[0]
    with pytest.raises(StateError, match=f"did you mean {name!r}"):
        found.tensor(name + "s")
    with pytest.raises(StateError, match="did you mean 'config.json'"):
        found.text("config.jsn")


def _beside(path: Path) -> None:
    with saved.find(path).beside():
        pass


@pytest.mark.parametrize("read", [from_packed, engine.load, lambda path: engine.pipeline(None, path), _beside])
def test_a_full_temporary_folder_is_one_error(
    read: Callable[[Path], object], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))  # no file may grow, as on a full disk
    try:
        with pytest.raises(StateError, match="cannot be unpacked into .*: File too large"):
            read(packed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
