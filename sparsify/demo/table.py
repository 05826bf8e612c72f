"""The demo's table: the dense model, the sparse one, and a compact one, with an honest word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sparsify.demo.sides import Side

Row = tuple[str, ...]

HEADER = ("", "dense", "sparse", "compact", "what it says")
PRUNEBERT = 340.26 / 11.28
"""Times that PruneBERT's encoder got smaller, with int8 values (Sanh et al. 2020, its notebook)."""


def rows(dense: Side, sparse: Side, compact: Side) -> list[Row]:
    """Return the rows: name, dense, sparse, compact, a sentence."""
    return list(_rows(dense, sparse, compact))


def _rows(dense: Side, sparse: Side, compact: Side) -> Iterator[Row]:
    three = (dense, sparse, compact)
    points = [f"{100 * (side.accuracy - dense.accuracy):+.2f}" for side in (sparse, compact)]
    yield ("accuracy", *(f"{side.accuracy:.2%}" for side in three), f"{' and '.join(points)} points, held-out images")
    if dense.density is not None and sparse.density is not None:
        yield _weights("targeted weights ≠ 0", dense.density.targeted, sparse.density.targeted)
        yield _weights("whole model ≠ 0", dense.density.model, sparse.density.model)
    times = dense.parameters / compact.parameters
    yield (
        "parameters",
        *(f"{side.parameters:,}" for side in three),
        f"{times:.1f}× fewer without dead heads and neurons",
    )
    yield ("file, raw", *(_bytes(side.size.raw) for side in three), "a dense format stores every zero")
    times = dense.size.zstd / sparse.size.zstd
    yield ("file, zstd", *(_bytes(side.size.zstd) for side in three), f"{times:.1f}× smaller to send or keep")
    times = dense.size.raw / sparse.packed
    said = f"bit for bit, {times:.1f}× smaller (PruneBERT: {PRUNEBERT:.0f}×, at 94 % zeros and int8)"
    yield ("folder, packed", *(_bytes(side.packed) for side in three), said)
    said = f"zeros alone cost as much as other numbers; compact is {_times(dense.milliseconds, compact.milliseconds)}"
    yield ("torch, 64 images", *(f"{side.milliseconds:.2f} ms" for side in three), said)
    found = [side.runtime for side in three if side.runtime is not None]
    if len(found) == len(three):
        said = f"compact is {_times(found[0], found[2])}"
        yield ("ONNX Runtime", *(f"{milliseconds:.2f} ms" for milliseconds in found), said)


def _times(dense: float, compact: float) -> str:
    return f"{dense / compact:.2f}× as fast as dense"


def _weights(name: str, dense: Any, sparse: Any) -> Row:
    return (name, f"{dense.nonzeros:,}", f"{sparse.nonzeros:,}", "", f"{sparse.sparsity:.1%} zero")


def _bytes(number: int) -> str:
    return f"{number / 1000:,.0f} kB"
