"""Unpacking: the folder, or the file, that was packed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from sparsify.checkpoint import umask, write_whole
from sparsify.errors import StateError
from sparsify.progress import each
from sparsify.storage.header import Named, Weights
from sparsify.storage.packed import PackedFile
from sparsify.storage.planes import bits_of


def unpack(path: str | Path, out: str | Path, *, max_bytes: int | None = None) -> list[Path]:
    """Write what is in a packed file, and return the files that were written.

    `out` is a folder that is not there yet, or is empty; or, where weights alone were packed, the file of safetensors
    (ending so). Either everything is written or nothing. Raises StateError; see PackedFile for `max_bytes`.

    Examples:
        >>> import tempfile, torch
        >>> from sparsify.storage import pack, unpack
        >>> folder = tempfile.mkdtemp()
        >>> _ = pack({"layer.weight": torch.zeros(8, 8)}, folder + "/small.packed")
        >>> [path.name for path in unpack(folder + "/small.packed", folder + "/again.safetensors")]
        ['again.safetensors']
    """
    packed, out = PackedFile(path, max_bytes=max_bytes), Path(out)
    if out.suffix == ".safetensors":
        if len(packed.header.weights) != 1 or packed.header.beside:
            raise StateError(f"{path} holds more than one file: name a folder to unpack it into")
        return [write_whole(out, lambda file: _write_weights(file, packed, 0))]
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StateError(f"{out} is there already, and not an empty folder: name another")
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        try:
            names = write_all(packed, partial)
            os.chmod(partial, 0o777 & ~umask())
            os.replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StateError(f"{out} cannot be written: {error.strerror or error}") from None
    return [out / name for name in names]


def write_all(packed: PackedFile, folder: Path) -> list[str]:
    """Write everything into a folder that is there, and return the names of the files."""
    for number, weights in enumerate(packed.header.weights):
        with (folder / weights.name).open("wb") as file:
            _write_weights(file, packed, number)
    return [*[weights.name for weights in packed.header.weights], *write_beside(packed, folder)]


def write_beside(packed: PackedFile, folder: Path) -> list[str]:
    """Write the small files alone into a folder that is there, and return their names."""
    for name in packed.beside():
        (folder / name).write_bytes(packed.text(name))
    return packed.beside()


@contextmanager
def temporary(packed: PackedFile, write: Callable[[PackedFile, Path], object] = write_all) -> Iterator[Path]:
    """Yield a temporary folder with what is packed, or what `write` takes of it. Raises StateError where it is full."""
    with ExitStack() as stack:
        try:  # what is raised while the folder is read is none of ours
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsify-")))
            write(packed, folder)
        except OSError as error:
            where = tempfile.tempdir or "a temporary folder"
            raise StateError(f"{packed.path} cannot be unpacked into {where}: {error.strerror or error}") from None
        yield folder


def _write_weights(file: IO[bytes], packed: PackedFile, number: int) -> None:
    """Write a file of safetensors, a tensor at a time."""
    tensors = [named for named in packed.header.tensors if named.file == number]
    file.write(_header(packed, packed.header.weights[number], tensors))
    for named in each("unpacking", tensors, lambda named: packed.info(named.name).dense_bytes):
        file.write(bits_of(packed.tensor(named.name)).data)


def _header(packed: PackedFile, weights: Weights, tensors: list[Named]) -> bytes:
    """Return the beginning of a file of safetensors, as the library writes it."""
    entries: dict[str, Any] = {} if weights.metadata is None else {"__metadata__": weights.metadata}
    end = 0
    for named in tensors:
        stored = packed.info(named.name)
        begin, end = end, end + stored.dense_bytes
        entries[named.name] = {
            "dtype": stored.number_type.code, "shape": list(stored.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
