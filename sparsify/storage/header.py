"""What the header of a packed file says, checked as it is read: which tensors there are, and how each is stored."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from sparsify.errors import StateError
from sparsify.escaping import is_text
from sparsify.recipe.problems import problems_of
from sparsify.storage.dtypes import CUT, IN_PLANES, Dtype, dtype_named
from sparsify.storage.integers import LARGEST, SCALE_SIZE, byte_count, scale_count
from sparsify.storage.positions import bitmap_size, most_gaps
from sparsify.storage.squeezed import RAW, Codec

MOST_ELEMENTS = 1 << 60
LARGEST_GROUP = 1 << 20

Size = Annotated[int, Field(ge=0, le=MOST_ELEMENTS)]
Name = Annotated[str, Field(max_length=4096)]
Layout = Literal["raw", "dense", "bitmap", "gaps"]
Plane = tuple[Size, Codec, Annotated[int, Field(ge=0, lt=1 << 32)]]
"""Bytes in the file, codec, CRC-32 of these bytes."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Stored(_Part):
    """A tensor as it is stored.

    `raw`: its bytes. `dense`: a plane for each byte of its numbers. `bitmap`, `gaps`: positions first, then planes of
    the numbers that are not +0.0. Where `value_type` is int8 or int4 the planes are positions, integers, scales.
    """

    dtype: str
    shape: tuple[Size, ...] = Field(max_length=64)
    layout: Layout
    value_type: str
    kept: Size
    """Numbers that are stored; of floats, those whose bits are not +0.0."""

    gaps: Size = 0
    """Bytes of gaps, before compression."""

    group: int = Field(default=0, ge=0, le=LARGEST_GROUP)
    """Numbers that share a scale; 0 where there is none."""

    planes: tuple[Plane, ...] = Field(max_length=16)

    @property
    def number_type(self) -> Dtype:
        """The type of the tensor."""
        return dtype_named(self.dtype)

    @property
    def elements(self) -> int:
        """Numbers of the tensor."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the tensor when it is read."""
        return self.elements * self.number_type.size

    @property
    def exact(self) -> bool:
        """Whether its numbers come back bit for bit."""
        return self.value_type == self.dtype

    @property
    def has_positions(self) -> bool:
        """Whether the first plane says where numbers are kept."""
        return self.layout in ("bitmap", "gaps")

    def sizes(self) -> list[int]:
        """Return the bytes of each plane before compression."""
        if self.layout == "raw":
            return [self.dense_bytes]
        first = {"bitmap": bitmap_size(self.elements), "gaps": self.gaps}
        positions = [first[self.layout]] if self.has_positions else []
        if self.exact:
            return [*positions, *[self.kept] * self.number_type.size]
        return [
            *positions,
            byte_count(self.kept, self.value_type),
            SCALE_SIZE * scale_count(self.kept, self.group),
        ]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            name = self.number_type.name
        except StateError as error:
            raise ValueError(str(error)) from None
        if math.prod(max(size, 1) for size in self.shape) > MOST_ELEMENTS:
            raise ValueError("its shape has more numbers than any file can hold")
        if self.kept > self.elements or (not self.has_positions and self.kept != self.elements):
            raise ValueError(f"it keeps {self.kept:,} numbers of {self.elements:,} in layout {self.layout}")
        if self.layout != "raw" and name not in IN_PLANES:
            raise ValueError(f"{name} is stored raw only, not in layout {self.layout}")
        if self.gaps > (most_gaps(self.elements, self.kept) if self.layout == "gaps" else 0):
            raise ValueError(f"{self.gaps:,} bytes of gaps are too many")
        if not self.exact and (self.value_type not in LARGEST or name not in CUT or self.layout == "raw"):
            raise ValueError(f"{name} in layout {self.layout} has no values of type {self.value_type!r}")
        if self.exact == bool(self.group):
            raise ValueError("`group` goes with integers, and only with them")
        sizes = self.sizes()
        if len(sizes) != len(self.planes):
            raise ValueError(f"it has {len(self.planes)} planes where {len(sizes)} are due")
        for size, (stored, codec, _) in zip(sizes, self.planes, strict=True):
            if codec == RAW and stored != size:
                raise ValueError(f"a plane has {stored:,} bytes where {size:,} are due")
        return self


class Named(_Part):
    """A tensor's name, the file that it came from (a place in `weights`), and its place in `stored`; ties share it."""

    name: Name
    file: Size
    stored: Size


class Weights(_Part):
    """A file of safetensors that was packed."""

    name: Name
    metadata: dict[str, str] | None = None


class Beside(_Part):
    """A small file beside the weights."""

    name: Name
    size: Size
    plane: Plane


class Header(_Part):
    """Everything but the planes themselves."""

    producer: Name
    weights: tuple[Weights, ...]
    stored: tuple[Stored, ...]
    tensors: tuple[Named, ...]
    beside: tuple[Beside, ...] = ()

    @property
    def dense_bytes(self) -> int:
        """Bytes of everything when it is unpacked."""
        tensors = sum(self.stored[named.stored].dense_bytes for named in self.tensors)
        return tensors + sum(file.size for file in self.beside)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for named in self.tensors:
            if named.file >= len(self.weights) or named.stored >= len(self.stored):
                raise ValueError(f"{named.name!r} names a file, or a place in one, that does not exist")
        names = [named.name for named in self.tensors]
        if len(set(names)) != len(names) or "__metadata__" in names:
            raise ValueError("two tensors have the same name, or one that is taken")
        files = [*(file.name for file in self.weights), *(file.name for file in self.beside)]
        if outside := [name for name in files if not is_plain(name)]:
            raise ValueError(f"{outside[0]!r} is no file of a folder")
        if len({name.casefold() for name in files}) != len(files):
            raise ValueError("two files have the same name")
        return self


def is_plain(name: str) -> bool:
    """Whether a file of this name lies in the folder itself, on any system."""
    return (
        is_text(name) and name not in ("", ".", "..") and not set(name) & set("\0/\\:") and PurePath(name).name == name
    )


def read_header(text: bytes, path: object) -> Header:
    """Return the header in JSON text. Raises StateError, with what is wrong where."""
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        raise StateError(f"{path} is damaged: its header: {problems_of(error, None)[0]}") from None
