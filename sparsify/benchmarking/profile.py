"""Where the time of one forward went, as plain data: by module and kind, with what is left over."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from sparsify.benchmarking.kinds import BETWEEN, KINDS

_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")
OUTSIDE = "outside of layers"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Cell(_Data):
    """What the functions of one kind took in one module, without those in modules inside of it."""

    module: str
    """Its name; empty for the model itself."""

    kind: str
    calls: int
    seconds: float = Field(ge=0)
    operations: int
    """Of the engine: two for each number of a product's weight that is stored and each row, or place, of the output;
    those of the two products of attention, with keys that queries attend to; else 0."""


class Sum(_Data):
    """Cells taken together."""

    name: str
    calls: int
    seconds: float
    share: float
    """Of the forward's time."""

    of_peak: float | None
    """Operations of the engine by the time that they took, as a share of the machine's peak; None without any."""


class Profile(_Data):
    """One forward, the one with the median time of several."""

    seconds: float = Field(gt=0)
    """All of it, which is the sum of the cells."""

    forwards: int
    """From which it was taken."""

    peak: float | None
    """Operations a second of this machine's fused multiply-adds in registers; None where the engine does not work."""

    cells: list[Cell]

    def kinds(self) -> list[Sum]:
        """Return a sum for each kind that there is, in the order of `KINDS`."""
        found = {each.name: each for each in self._sums(lambda cell: cell.kind)}
        return [found[kind] for kind in KINDS if kind in found]

    def layers(self) -> list[Sum]:
        """Return a sum for each layer (named up to the first number of a path), and for what is in none."""
        return self._sums(lambda cell: layer_of(cell.module))

    def roles(self) -> list[Sum]:
        """Return a sum for each kind in each module, the same ones of all layers together; the longest first."""
        sums = self._sums(lambda cell: f"{_NUMBER.sub('*', cell.module) or 'the model'}: {cell.kind}")
        return sorted(sums, key=lambda each: -each.seconds)

    def _sums(self, key: Callable[[Cell], str]) -> list[Sum]:
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(key(cell), []).append(cell)
        return [self._sum(name, cells) for name, cells in groups.items()]

    def _sum(self, name: str, cells: list[Cell]) -> Sum:
        seconds = sum(cell.seconds for cell in cells)
        operations = sum(cell.operations for cell in cells)
        busy = sum(cell.seconds for cell in cells if cell.operations)
        return Sum(
            name=name,
            calls=sum(cell.calls for cell in cells if cell.kind != BETWEEN),
            seconds=seconds,
            share=seconds / self.seconds,
            of_peak=operations / busy / self.peak if busy and self.peak else None,
        )


def layer_of(module: str) -> str:
    """Return the path of a module up to its first number; `OUTSIDE` where there is none."""
    found = _NUMBER.search(module)
    return module[: found.end()] if found else OUTSIDE
