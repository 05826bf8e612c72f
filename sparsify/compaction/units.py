"""Which heads and neurons of a model are dead, and how many of them leave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsify.anatomy import Anatomy, Attention, FeedForward
from sparsify.compaction.cutting import Cutting
from sparsify.layers import Weight
from sparsify.structure.orders import blocks, reader
from sparsify.structure.units import kept_by_bias, living_heads, living_neurons, not_empty


@dataclass
class Unit:
    """A block whose heads or neurons can leave it. Masks are bool, True = stays."""

    block: Attention | FeedForward
    layer: str
    kind: str
    """The class of its layer: blocks of one kind are tried together."""

    alive: Tensor
    """Query heads, or neurons, [units]."""

    silent: Tensor
    """What adds nothing whatever it computes, [units]: its columns of output (or down) are zero."""

    least: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    """Why dead units stay → how many."""

    @property
    def total(self) -> int:
        """How many units there are: heads, or key and value heads where queries are grouped; neurons."""
        return self.block.groups if isinstance(self.block, Attention) else len(self.alive)

    @property
    def output(self) -> Weight:
        """The matrix that reads the units."""
        return reader(self.block)

    @property
    def reader(self) -> str:
        """The module of that matrix."""
        return self.output.parameter_name.rpartition(".")[0]

    def keep(self, units: Tensor, why: str) -> None:
        """Let dead units stay (bool, [units])."""
        more = int((units & ~self.alive).sum())
        if more:
            self.notes[why] = self.notes.get(why, 0) + more
            self.alive = self.alive | units


def find(anatomy: Anatomy, kinds: Callable[[str], str]) -> list[Unit]:
    """Return every block with its dead units by its weights; `kinds` names the class of a layer."""
    found = []
    for layer in anatomy.layers:
        for block in blocks(layer):
            if block.doubt:
                continue
            if isinstance(block, Attention):
                _, alive, _ = living_heads(block, _nonzero)[-1]
                least, count = block.least, block.heads
            else:
                _, alive, _ = living_neurons(block, _nonzero)[-1]
                least, count = 0, block.neurons
            unit = Unit(
                block, layer.name, f"{kinds(layer.name)} {type(block).__name__}", alive.cpu(), torch.empty(0), least
            )
            output = unit.output
            unit.silent = ~not_empty(output, _nonzero, count, columns=True).cpu()
            if isinstance(block, FeedForward):
                unit.keep(kept_by_bias(block, _nonzero).cpu(), "the bias of up is scaled by the gate")
            found.append(unit)
    return found


def _nonzero(weight: Weight) -> Tensor:
    return weight.tensor != 0


def settle(units: Iterable[Unit], *, equal: bool, align: int, at_least: int = 0) -> None:
    """Let dead units stay where an architecture needs them, or where the same number, or a round one, is wanted."""
    units = list(units)
    shared: dict[str, list[Unit]] = defaultdict(list)
    stacks: dict[int, list[Unit]] = defaultdict(list)
    together: dict[tuple[str, int, int], list[Unit]] = defaultdict(list)
    for unit in units:
        if isinstance(unit.block, Attention) and unit.block.shared:
            shared[unit.block.shared].append(unit)
        together[type(unit.block).__name__, len(unit.alive), unit.total].append(unit)
        if unit.output.storage.stack:
            stacks[id(unit.output.parameter)].append(unit)
        _at_least(unit, at_least)
    for group in shared.values():
        alive = torch.stack([unit.alive for unit in group]).any(0)
        for unit in group:
            unit.keep(alive, "its architecture can only lose the same heads in every layer")
    for unit in units:
        _round(unit, align)
    for group in stacks.values():
        _fill(group, "the experts of a layer share their width")
    if equal:
        for group in together.values():
            _fill(group, "every layer is to have as many")


def _at_least(unit: Unit, wanted: int) -> None:
    for least, why in (
        (unit.least, "its architecture cannot do without any"),
        (wanted, f"at least {wanted} are wanted"),
    ):
        there = int(unit.alive.sum())
        if there < least:
            unit.keep(unit.alive | first_of(~unit.alive, least - there), why)


def _round(unit: Unit, align: int) -> None:
    """Make the number of units one that the block can have: whole groups of as many queries each, or aligned."""
    block = unit.block
    if isinstance(block, FeedForward):
        there = int(unit.alive.sum())
        more = min(-(-there // align) * align, len(unit.alive)) - there
        unit.keep(unit.alive | first_of(~unit.alive, more), f"widths are multiples of {align}")
        return
    grid = unit.alive.view(block.groups, -1)
    groups, per = _shape(grid)
    _grouped(unit, groups, grid.shape[1] if block.interleaved else per)


def _fill(group: list[Unit], why: str) -> None:
    """Let as many units stay in each block as any of them has; of heads, as many groups and as many queries in each."""
    if isinstance(group[0].block, FeedForward):
        most = max(int(unit.alive.sum()) for unit in group)
        for unit in group:
            unit.keep(unit.alive | first_of(~unit.alive, most - int(unit.alive.sum())), why)
        return
    grids = [unit.alive.view(unit.total, -1) for unit in group]
    groups, per = (max(int(each) for each in counts) for counts in zip(*map(_shape, grids), strict=True))
    for unit in group:
        _grouped(unit, groups, per, why)


def _shape(grid: Tensor) -> tuple[int, int]:
    """Return how many groups live, and how many queries the fullest has."""
    return int(grid.any(1).sum()), int(grid.sum(1).max())


def _grouped(unit: Unit, groups: int, per: int, why: str = "every group has as many queries") -> None:
    """Let heads stay so that there are so many groups with so many query heads each."""
    assert isinstance(unit.block, Attention)
    grid = unit.alive.view(unit.block.groups, -1)
    alive = grid.any(1)
    alive = alive | first_of(~alive, groups - int(alive.sum()))
    filled = torch.stack(
        [row | first_of(~row, per - int(row.sum())) if lives else row for row, lives in zip(grid, alive, strict=True)]
    )
    unit.keep(filled.flatten(), why)


def first_of(candidates: Tensor, count: int) -> Tensor:
    """Return the first so many of what is True, as a mask."""
    return candidates & (candidates.cumsum(0) <= count)


def cut(unit: Unit, cutting: Cutting) -> None:
    """Note the rows and columns of the units that leave."""
    block, alive = unit.block, unit.alive
    if isinstance(block, FeedForward):
        rows = [(block.up, alive)] + ([(block.gate, alive)] if block.gate is not None else [])
    else:
        groups = alive.view(block.groups, -1).any(1)
        rows = (
            [(block.query, groups)]
            if block.interleaved
            else [(block.query, alive), (block.key, groups), (block.value, groups)]
        )
    for weight, kept in rows:
        cutting.rows(weight, kept.repeat_interleave(weight.geometry.rows // len(kept)))
    cutting.columns(unit.output, alive.repeat_interleave(unit.output.geometry.columns // len(alive)))
