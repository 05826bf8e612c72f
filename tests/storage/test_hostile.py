"""Files that are damaged, of another version, or made to do harm: a clear error, and bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sparsify.errors import StateError
from sparsify.storage import PackedFile, pack, unpack
from tests.storage import mutations


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A packed file with a tensor in every layout, and small files."""
    folder = tmp_path_factory.mktemp("good")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 40, generator=generator)
    tensors = {
        "dense": noise,
        "bitmap": noise.relu(),
        "gaps": torch.where(torch.rand(60, 60, generator=generator) < 0.02, 1.5, 0.0).bfloat16(),
        "steps": torch.arange(9), "flags": torch.tensor([True, False, True]), "one": torch.tensor(2.5), "none": torch.zeros(0, 3), "zeros": torch.zeros(300),
        "repeated": torch.randn(64, generator=generator).repeat(64),
    }  # fmt: skip
    (folder / "model").mkdir()
    save_file(tensors, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    (folder / "model" / "config.json").write_text(json.dumps({"a": list(range(100))}))
    pack(folder / "model", folder / "packed")
    layouts = {stored.layout for stored in PackedFile(folder / "packed").header.stored}
    assert layouts == {"raw", "dense", "bitmap", "gaps"}
    return (folder / "packed").read_bytes()


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A packed file with integers of eight bits."""
    path = tmp_path_factory.mktemp("lossy") / "packed"
    noise = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    pack({"a": noise.relu(), "b": noise.half()}, path, values="int8", group=16)
    return path.read_bytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_files_are_refused(seed: int, good: bytes, lossy: bytes, tmp_path: Path) -> None:
    for data in (good, lossy):
        found = mutations.attack(data, tmp_path / "packed", 300, seed)
        assert found["refused"] > 200, found


@pytest.mark.slow
def test_ten_thousand_mutated_files_in_a_process_of_bounded_memory(good: bytes, lossy: bytes, tmp_path: Path) -> None:
    """In a process that may not take more than 256 MiB beyond what it has when everything is imported."""
    (tmp_path / "good").write_bytes(good)
    (tmp_path / "lossy").write_bytes(lossy)
    code = f"""
import resource
from pathlib import Path
from tests.storage import mutations
place = Path({str(tmp_path)!r})
mutations.attack((place / "good").read_bytes(), place / "packed", 20, 0)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20),) * 2)
for name in ("good", "lossy"):
    print(mutations.attack((place / name).read_bytes(), place / "packed", 5000, 3))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)


def refused(data: bytes, folder: Path, words: str) -> None:
    """Check that a file is refused with these words, and that nothing is left behind."""
    (folder / "packed").write_bytes(data)
    with pytest.raises(StateError, match=words) as caught:
        unpack(folder / "packed", folder / "out")
    assert "\x1b" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["packed"]


def test_every_cut_is_noticed(good: bytes, tmp_path: Path) -> None:
    for length in [*range(0, 200, 7), *range(200, len(good), 997), len(good) - 1]:
        refused(good[:length], tmp_path, "cannot be read|no packed file")


LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a huge tensor": (lambda h: _set(h, ["stored", 0, "shape"], [1 << 30, 1 << 20]), "keeps|planes|bytes"),
    "all zeros, huge": (
        lambda h: _set(h, ["stored", 0], {"dtype": "float32", "shape": [1 << 36], "layout": "gaps", "value_type": "float32", "kept": 0, "planes": [[0, "raw", 0]] * 5}),
        "unpacks to 274,.* bytes, more than 67,108,864",
    ),
    "a path out of the folder": (lambda h: _set(h, ["beside", 0, "name"], "../evil"), "no file of a folder"),
    "a path of Windows": (lambda h: _set(h, ["beside", 0, "name"], "c:evil"), "no file of a folder"),
    "a path out of the folder, of weights": (lambda h: _set(h, ["weights", 0, "name"], "/tmp/evil"), "no file of a folder"),
    "weights over a small file": (lambda h: _set(h, ["beside", 0, "name"], "Model.safetensors"), "two files have the same name"),
    "a field from the future": (lambda h: {**h, "surprise": 1}, "surprise"),
    "a type from the future": (lambda h: _set(h, ["stored", 0, "dtype"], "float3"), "'float3' is no type of numbers"),
    "a name that steers terminals": (lambda h: _set(h, ["stored", 0, "dtype"], "\x1b[31m"), "no type of numbers"),
    "two of one name": (lambda h: _set(h, ["tensors", 0, "name"], h["tensors"][1]["name"]), "the same name"),
    "a place that there is not": (lambda h: _set(h, ["tensors", 0, "stored"], 99), "that does not exist"),
}  # fmt: skip


def _set(tree: Any, path: list[Any], value: Any) -> Any:
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


@pytest.mark.parametrize("name", LIES)
def test_headers_that_lie_are_refused(name: str, good: bytes, tmp_path: Path) -> None:
    change, words = LIES[name]
    refused(mutations.with_header(good, change), tmp_path, words)


def test_another_version_is_named(good: bytes, tmp_path: Path) -> None:
    entries, rest = mutations.parts(good)
    entries["__metadata__"]["version"] = "2"
    refused(mutations.whole(entries, rest), tmp_path, "version 2; this sparsify reads version 1")


def test_a_header_that_would_be_huge_is_refused(good: bytes, tmp_path: Path) -> None:
    entries, rest = mutations.parts(good)
    entries["__metadata__"]["size"] = str(1 << 40)
    refused(mutations.whole(entries, rest), tmp_path, "it claims an impossible size")


def test_a_flipped_bit_in_any_plane_is_noticed(good: bytes, tmp_path: Path) -> None:
    entries, rest = mutations.parts(good)
    start = len(good) - len(rest)
    for name, entry in entries.items():
        begin, end = entry.get("data_offsets", (0, 0))
        for at in {begin, (begin + end) // 2, end - 1} if end > begin else ():
            damaged = bytearray(good)
            damaged[start + at] ^= 1
            refused(bytes(damaged), tmp_path, "checksum does not fit")
        assert name


def test_what_is_trusted_may_be_large(tmp_path: Path) -> None:
    """Zeros compress without a bound: many are read where they are allowed, and only there."""
    pack({"a": torch.zeros((1 << 24) + 1)}, tmp_path / "packed", level=1)
    assert (tmp_path / "packed").stat().st_size < 1000
    with pytest.raises(StateError, match="67,108,868 bytes, more than 67,108,864 .*max_bytes"):
        PackedFile(tmp_path / "packed")
    assert int(PackedFile(tmp_path / "packed", max_bytes=1 << 28).tensor("a").count_nonzero()) == 0
