"""What packing came to: bytes by tensor and by group, beside the bound and the dense bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparsify.storage.coding import Coded, Error
from sparsify.storage.groups import EMBEDDINGS, ENCODER, MATRICES, REST


@dataclass(frozen=True)
class Row:
    """A tensor, or several together; all but `elements` and `kept` in bytes."""

    name: str
    group: str
    elements: int
    kept: int
    """Not zero."""

    dense: int
    positions: int
    values: int
    scales: int
    bound: float
    layout: str = ""
    value_type: str = ""
    error: Error | None = None

    @classmethod
    def of(cls, name: str, group: str, coded: Coded) -> Row:
        """Return the row of a tensor."""
        stored = coded.stored
        return cls(
            name, group, stored.elements, coded.nonzeros, stored.dense_bytes,
            coded.position_bytes, coded.value_bytes, coded.scale_bytes, coded.bound,
            stored.layout, stored.value_type, coded.error,
        )  # fmt: skip

    @property
    def stored(self) -> int:
        """Bytes in the file, without what the headers say of it."""
        return self.positions + self.values + self.scales

    @property
    def ratio(self) -> float:
        """Stored bytes ÷ the bound."""
        return self.stored / self.bound if self.bound else 1.0

    @property
    def bits(self) -> float:
        """Bits for each original weight."""
        return 8 * self.stored / max(self.elements, 1)


def together(name: str, rows: list[Row]) -> Row:
    """Return the sum of rows."""

    def added(key: str) -> Any:
        return sum(getattr(row, key) for row in rows)

    return Row(name, name, *map(added, ("elements", "kept", "dense", "positions", "values", "scales", "bound")))


@dataclass(frozen=True)
class Summary:
    """A packed file, in numbers."""

    path: Path
    bytes: int
    """Of the whole file."""

    beside: int
    """Of the small files in it."""

    rows: tuple[Row, ...]
    """A tensor each; tied ones once."""

    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def headers(self) -> int:
        """Bytes that are neither tensors nor small files: names, shapes, checksums."""
        return self.bytes - self.beside - self.total.stored

    @property
    def total(self) -> Row:
        """All tensors."""
        return together("all tensors", list(self.rows))

    @property
    def ratio(self) -> float:
        """Bytes of tensors and headers ÷ the bound."""
        return (self.bytes - self.beside) / self.total.bound if self.total.bound else 1.0

    def groups(self) -> list[Row]:
        """Return the sum of each group that there is."""
        parts = {
            name: [row for row in self.rows if row.group == name] for name in (ENCODER, MATRICES, EMBEDDINGS, REST)
        }
        return [together(name, rows) for name, rows in parts.items() if rows]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""

        def plain(row: Row) -> dict[str, Any]:
            return {**asdict(row), "stored": row.stored, "ratio": row.ratio, "bits_per_weight": row.bits}

        return {
            "path": str(self.path),
            "bytes": {"file": self.bytes, "beside": self.beside, "headers": self.headers},
            "ratio": self.ratio,
            "total": plain(self.total),
            "groups": [plain(row) for row in self.groups()],
            "tensors": [plain(row) for row in self.rows],
            "left_out": list(self.left_out),
            "notes": list(self.notes),
        }
