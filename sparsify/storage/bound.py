"""The order-0 entropy bound: how few bytes a code without a memory could do with, tensor by tensor.

Positions: n elements, each kept with probability k ÷ n. Values: the entropy of their exponents, and every bit of sign
and mantissa. Of what is not floating-point: the entropy of its bytes. A code that sees more than one number at a time
(zstd does) may be a little below it; tables of a code, names and checksums are not in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify.storage.planes import Bits, exponent_bits, exponents

_COUNTED_AT_A_TIME = 1 << 20


def entropy(counts: npt.NDArray[Any]) -> float:
    """Return the bits that n symbols take together, with so many of each."""
    some = counts[counts > 0].astype(np.float64)
    return float((some * np.log2(some.sum() / some)).sum()) if len(some) else 0.0


def of_positions(elements: int, kept: int) -> float:
    """Return bytes for which of the elements are kept."""
    return entropy(np.array([kept, elements - kept])) / 8


def of_floats(values: Bits, name: str) -> float:
    """Return bytes for floating-point numbers of a type: exponents by their entropy, the other bits whole."""
    width = exponent_bits(name)
    counts = np.zeros(1 << width, np.int64)
    for begin in range(0, len(values), _COUNTED_AT_A_TIME):
        part = exponents(values[begin : begin + _COUNTED_AT_A_TIME], name)
        counts += np.bincount(part, minlength=1 << width)
    return (entropy(counts) + len(values) * (8 * values.itemsize - width)) / 8


def of_bytes(data: npt.NDArray[np.uint8]) -> float:
    """Return bytes for bytes."""
    return entropy(np.bincount(data, minlength=256)) / 8 if len(data) else 0.0
