"""The compiled library, opened once by ctypes; calls into it release the GIL."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Literal

from sparsify.engine import build
from sparsify.errors import KernelError, first_line

INTERFACE = 3
Instructions = Literal["portable", "avx2", "avx512"]
INSTRUCTIONS: dict[str, int] = {"best": 0, "portable": 1, "avx2": 2, "avx512": 3}
BUILD = "python -m sparsify.engine.build"

_ERRORS = {
    -1: "a size, a height, a type or an activation is none that the engine has",
    -2: "the rows of a matrix do not ascend, or a column lies outside",
    -3: "a packed weight is damaged, or is none",
    -4: "there is not enough memory",
    -5: "this processor lacks the instructions that were asked for",
    -6: "a packed weight is of another shape than the product",
}

_U32, _U64, _I32, _P = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sparsify_interface": (_I32, ()),
    "sparsify_sources": (ctypes.c_char_p, ()),
    "sparsify_instructions": (_I32, ()),
    "sparsify_packed_bytes": (ctypes.c_int64, (_U64, _U64, _P, _P, _U32)),
    "sparsify_pack": (_I32, (_U64, _U64, _P, _P, _P, _U32, _U32, _P, _U64)),
    "sparsify_check": (_I32, (_P, _U64)),
    "sparsify_unpack": (_I32, (_P, _U64, _P)),
    "sparsify_linear": (_I32, (_P, _U64, _U64, _U64, _U32, _P, _U64, _P, _U32, _P, _U32, _I32)),
    "sparsify_attention": (_I32, (_P, _U32, _I32)),
    "sparsify_spin": (ctypes.c_int64, (_U64, _U32, _I32)),
    "sparsify_convolution": (_I32, (_P, _U64, _U64, _U32, _P, _P, _P, _P, _U32, _P, _U32, _I32)),
}


def missing() -> str | None:
    """Return why the engine does not work here, and what would help; None where it works."""
    found = _opened()
    return found if isinstance(found, str) else None


def library() -> Any:
    """Return the library. Raises KernelError where there is none."""
    found = _opened()
    if isinstance(found, str):
        raise KernelError(f"the sparse engine does not work here: {found}")
    return found


def instructions() -> Instructions:
    """Return the best instruction set that both the library and this processor have."""
    best = library().sparsify_instructions()
    names: dict[int, Any] = {number: name for name, number in INSTRUCTIONS.items()}
    found: Instructions = names[best]
    return found


def checked(code: int) -> int:
    """Return what a call returned. Raises KernelError for what it says is wrong."""
    if code < 0:
        raise KernelError(f"sparse engine: {_ERRORS.get(code, f'error {code}')}")
    return code


@cache
def _opened() -> Any:
    """Return the library, or why it cannot be used."""
    path = build.FOLDER / build.LIBRARY
    if not path.is_file():
        tool = "" if build.compiler() else ", with a C++ compiler (g++ or clang++) installed"
        return f"its library was not compiled: run `{BUILD}`{tool}"
    try:
        opened: Any = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return f"its library cannot be opened ({first_line(error)}): run `{BUILD}`"
    made_of = opened.sparsify_sources().decode("ascii", "replace")
    if opened.sparsify_interface() != INTERFACE or made_of != build.MARK + build.fingerprint(build.FOLDER):
        return f"its library was compiled from other sources: run `{BUILD}`"
    return opened
