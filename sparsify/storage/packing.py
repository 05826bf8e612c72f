"""Packing: a folder or a file of weights, or tensors, into one file, a tensor at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from zlib import crc32

import torch
from pydantic import ValidationError
from torch import Tensor

from sparsify._version import __version__
from sparsify.checkpoint import claim, write_whole
from sparsify.errors import StateError
from sparsify.progress import counted
from sparsify.recipe.problems import problems_of
from sparsify.storage import container
from sparsify.storage.coding import Coded, encode
from sparsify.storage.dtypes import CUT
from sparsify.storage.groups import EMBEDDINGS, ENCODER, MATRICES, Groups
from sparsify.storage.header import LARGEST_GROUP, Beside, Header, Named, Stored
from sparsify.storage.integers import LARGEST
from sparsify.storage.sources import Source, source_of, text_of
from sparsify.storage.squeezed import LEVEL, squeeze
from sparsify.storage.summary import Row, Summary

GROUP = 64


@dataclass(frozen=True)
class Settings:
    """How tensors are packed. `values` is int8 or int4, or None for bit for bit."""

    values: str | None = None
    group: int = GROUP
    embeddings: bool = False
    """Whether embeddings become integers too."""

    level: int = LEVEL

    def __post_init__(self) -> None:
        if self.values is not None and self.values not in LARGEST:
            raise StateError(f"values: {self.values!r} is none of {', '.join(LARGEST)}")
        if not 1 <= self.group <= LARGEST_GROUP:
            raise StateError(f"group: from 1 to {LARGEST_GROUP:,}, got {self.group}")
        if not 1 <= self.level <= 22:
            raise StateError(f"level: from 1 to 22, got {self.level}")

    def value_type(self, group: str) -> str | None:
        """Return what the values of a group of tensors become."""
        meant = group in (ENCODER, MATRICES) or (group == EMBEDDINGS and self.embeddings)
        return self.values if meant else None


@dataclass
class _Writing:
    """What has been written so far."""

    spool: IO[bytes]
    stored: list[Stored] = field(default_factory=list)
    tensors: list[Named] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(self, planes: Iterable[bytes]) -> None:
        """Write an entry."""
        self.lengths.append(sum(self.spool.write(plane) for plane in planes))


def pack(
    source: str | Path | Mapping[str, Tensor],
    out: str | Path,
    *,
    values: str | None = None,
    group: int = GROUP,
    embeddings: bool = False,
    level: int = LEVEL,
) -> Summary:
    """Write `out`: everything in a folder of transformers, the tensors of a file of safetensors, or a state dict.

    Without `values` every tensor comes back bit for bit. With int8 or int4 linear weights (and with `embeddings` tables
    of embeddings) become integers with a scale for each `group` of numbers that are not zero; vectors, and what is not
    finite, stay as they are. Tensors of a state dict that share their memory are stored once. Raises StateError.

    Examples:
        >>> import tempfile, torch
        >>> from sparsify.storage import PackedFile, pack
        >>> weight = torch.zeros(256, 256)
        >>> weight[0] = 1.0
        >>> file = tempfile.mkdtemp() + "/small.packed"
        >>> _ = pack({"layer.weight": weight}, file)
        >>> torch.equal(PackedFile(file).tensor("layer.weight"), weight)
        True
    """
    settings = Settings(values, group, embeddings, level)
    found = source_of(source)
    directory = Path(source) if not isinstance(source, Mapping) and Path(source).is_dir() else None
    out = Path(out)
    if out.is_dir():
        raise StateError(f"{out} is a folder: name the file that is to be written")
    if any(out.exists() and out.samefile(file) for file in (*found.files, *found.beside)):
        raise StateError(f"{out} is among what is packed: choose another name")
    try:
        with tempfile.TemporaryFile(dir=_folder(out)) as spool:
            return _packed(found, Groups(directory), settings, spool, out)
    except OSError as error:
        raise StateError(f"{out} cannot be written: {error.strerror or error}") from None


def _folder(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def _packed(found: Source, groups: Groups, settings: Settings, spool: IO[bytes], out: Path) -> Summary:
    writing, claimed = _Writing(spool), claim(out)
    _write_tensors(found, groups, settings, writing)
    for path in found.beside:
        if path != out:
            _write_beside(path, settings.level, writing)
    text = _header(found, writing).model_dump_json(exclude_defaults=True).encode()
    sizes: list[int] = []

    def write(file: IO[bytes]) -> None:
        sizes.append(container.write(file, text, spool, writing.lengths))
        claimed()

    write_whole(out, write)
    beside = sum(writing.lengths[len(writing.stored) :])
    return Summary(out, sizes[0], beside, tuple(writing.rows), found.left_out, tuple(writing.notes))


def _header(found: Source, writing: _Writing) -> Header:
    try:
        return Header(
            producer=f"sparsify {__version__}",
            weights=tuple(found.weights()),
            stored=tuple(writing.stored),
            tensors=tuple(writing.tensors),
            beside=tuple(writing.beside),
        )
    except ValidationError as error:
        raise StateError(f"this cannot be packed: {problems_of(error, None)[0]}") from None


def _write_tensors(found: Source, groups: Groups, settings: Settings, writing: _Writing) -> None:
    places: dict[tuple[object, ...], int] = {}
    sizes = sum(path.stat().st_size for path in found.files)  # of a state dict, whose tensors are in memory, 0
    tensors = counted("packing", found.tensors(), sizes or None, lambda each: each[2].nbytes)
    for file, name, tensor in tensors:
        identity = _identity(tensor) if found.memory else None
        if identity is not None and identity in places:
            writing.tensors.append(Named(name=name, file=file, stored=places[identity]))
            continue
        coded = _encoded(name, tensor, groups.of(name, tensor.dim()), settings, writing)
        if identity is not None:
            places[identity] = len(writing.stored)
        writing.tensors.append(Named(name=name, file=file, stored=len(writing.stored)))
        writing.stored.append(coded.stored)
        writing.put(coded.planes)


def _encoded(name: str, tensor: Tensor, group: str, settings: Settings, writing: _Writing) -> Coded:
    value_type = settings.value_type(group)
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "has no values (meta)" if tensor.is_meta else f"is of layout {tensor.layout}"
        raise StateError(f"{name} {kind}: only dense tensors with values can be packed")
    try:
        coded = encode(tensor, level=settings.level, value_type=value_type, group=settings.group)
    except StateError as error:
        raise StateError(f"{name}: {error}") from None
    if value_type and coded.stored.exact:
        one_of = ", ".join(CUT)
        why = "not all of it is finite, or would be" if coded.stored.dtype in CUT else f"it is none of {one_of}"
        writing.notes.append(f"{name} stays as it is: {why}")
    writing.rows.append(Row.of(name, group, coded))
    return coded


def _identity(tensor: Tensor) -> tuple[object, ...] | None:
    """Return what two tensors have in common that are the same memory, seen alike; None where there is none."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.numel() == 0:
        return None
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _write_beside(path: Path, level: int, writing: _Writing) -> None:
    text = text_of(path)
    codec, data = squeeze(text, level)
    plane = {"plane": (len(data), codec, crc32(data))}
    writing.beside.append(Beside.model_validate({"name": path.name, "size": len(text), **plane}))
    writing.put([data])
