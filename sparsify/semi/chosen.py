"""What was chosen for each layer, as plain data: to be shown, saved, and made again in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparsify import choices
from sparsify.errors import KernelError
from sparsify.escaping import one_line, quoted

FORMAT = 1
COLUMNS = ("layer", "shape", "tokens", "dense µs", "sparse µs", "faster", "2:4", "why")


@dataclass(frozen=True)
class Choice:
    """A linear layer: whether its weight is kept for the sparse kernels, and why not."""

    layer: str
    shape: tuple[int, int]
    """Outputs and inputs."""

    sparse: bool
    why: str = ""
    """Why it stays dense; empty where it does not."""

    tokens: int | None = None
    """Rows of the input that were tried; None without a trial."""

    dense_seconds: float | None = None
    sparse_seconds: float | None = None
    """Medians of the trial."""

    @property
    def faster(self) -> float | None:
        """How many times faster the sparse kernels were; None without a trial."""
        if not self.dense_seconds or not self.sparse_seconds:
            return None
        return self.dense_seconds / self.sparse_seconds


@dataclass(frozen=True)
class Chosen:
    """All linear layers of a model."""

    layers: tuple[Choice, ...]
    where: str
    """The device, and which kernels."""

    @property
    def sparse(self) -> tuple[str, ...]:
        """The layers that were converted."""
        return choices.sparse(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, fit for JSON."""
        return {"format": FORMAT, "where": self.where, "layers": [asdict(choice) for choice in self.layers]}

    @classmethod
    def from_dict(cls, data: Any) -> Chosen:
        """Read what `to_dict` returned. Raises KernelError for anything else."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT or not isinstance(data.get("layers"), list):
            raise KernelError("choices are what `Chosen.to_dict()` returns: format, where and layers")
        return cls(tuple(_choice(each) for each in data["layers"]), str(data.get("where", "")))

    def table(self) -> str:
        """Return a table for a terminal, a line a layer."""
        return choices.table(COLUMNS, [_row(choice) for choice in self.layers], len(self.sparse), self.where)

    def __str__(self) -> str:
        return self.table()


def _choice(data: Any) -> Choice:
    if not isinstance(data, Mapping) or not isinstance(data.get("layer"), str) or type(data.get("sparse")) is not bool:
        raise KernelError(f"a layer of choices has a name (`layer`) and `sparse`, true or false; got {quoted(data)}")
    shape = choices.shape_of(data)
    tokens, why = data.get("tokens"), str(data.get("why", ""))
    seconds = (data.get(key) for key in ("dense_seconds", "sparse_seconds"))
    dense, sparse = (each if isinstance(each, float) else None for each in seconds)
    rows = tokens if type(tokens) is int else None
    return Choice(data["layer"], shape, data["sparse"], why, rows, dense, sparse)


def _row(choice: Choice) -> tuple[str, ...]:
    micro = [f"{each * 1e6:.1f}" if each else "" for each in (choice.dense_seconds, choice.sparse_seconds)]
    faster = f"{choice.faster:.2f}×" if choice.faster else ""
    shape = " × ".join(map(str, choice.shape))
    tokens = f"{choice.tokens:,}" if choice.tokens else ""
    said = "yes" if choice.sparse else "no"
    return one_line(choice.layer, 200), shape, tokens, *micro, faster, said, one_line(choice.why)
