"""Weights stored small, without a bit lost: positions, exponents, signs and mantissas, each compressed as it is best.

`pack` makes one file of a folder of transformers, `unpack` the folder again; `PackedFile` reads single tensors,
`from_packed` gives the model. Needs numpy, safetensors and zstandard (`sparsify-torch[storage]`), which are imported
when one of these is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsify.storage.csr import Csr
    from sparsify.storage.models import OutputError, from_packed, output_error
    from sparsify.storage.packed import PackedFile
    from sparsify.storage.packing import pack
    from sparsify.storage.summary import Summary
    from sparsify.storage.unpacking import unpack

_PUBLIC = {
    "Csr": "csr",
    "OutputError": "models",
    "PackedFile": "packed",
    "Summary": "summary",
    "from_packed": "models",
    "output_error": "models",
    "pack": "packing",
    "unpack": "unpacking",
}

__all__ = ["Csr", "OutputError", "PackedFile", "Summary", "from_packed", "output_error", "pack", "unpack"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
