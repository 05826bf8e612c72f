"""Number types by their names: ours (torch's), and the codes in files of safetensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsify.errors import StateError, did_you_mean

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip

IN_PLANES = ("float64", "float32", "float16", "bfloat16")
"""Types whose numbers are cut into planes and whose zeros are left out; others stay as bytes."""

CUT = ("float32", "float16", "bfloat16")
"""Types that may be stored as integers with scales: a scale has the range of float32."""


@dataclass(frozen=True)
class Dtype:
    """A number type."""

    name: str
    code: str
    torch: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return self.torch.itemsize


_ALL = {
    name: Dtype(name, code, found)
    for name, code in _CODES.items()
    if isinstance(found := getattr(torch, name, None), torch.dtype)
}


def dtype_named(name: str) -> Dtype:
    """Return the type of this name. Raises StateError."""
    if name not in _ALL:
        raise StateError(f"{name!r} is no type of numbers that can be stored{did_you_mean(name, _ALL)}")
    return _ALL[name]


def dtype_of(dtype: torch.dtype) -> Dtype:
    """Return the type of torch's. Raises StateError."""
    return dtype_named(str(dtype).removeprefix("torch."))
