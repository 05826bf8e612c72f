"""Copies of a model are cut, each kind of block in the way that computes the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from sparsify.anatomy import read
from sparsify.compaction import channels, constants
from sparsify.compaction.attributes import set_numbers
from sparsify.compaction.companions import cut_companions
from sparsify.compaction.cutting import Cutting
from sparsify.compaction.running import Runner
from sparsify.compaction.stock import say_heads
from sparsify.compaction.units import Unit, cut, find, settle
from sparsify.errors import CompactionError, PlanError
from sparsify.layers.outline import remade
from sparsify.progress import task
from sparsify.structure.graph import channels as coupled

Mode = Literal["strict", "loose", "configured"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""How a kind of block is cut, in the order in which it is tried: what certainly belongs to it; also what has as many
features; with the configuration, which the forward reads, saying how many heads there are."""


@dataclass
class Made:
    """A copy that was cut."""

    model: nn.Module


class Attempts:
    """Cuts copies of a model, and tells whether they compute the same."""

    def __init__(
        self, model: nn.Module, runner: Runner, equal: bool, align: int, at_least: int, tolerance: float
    ) -> None:
        self.model, self.runner, self.tolerance = model, runner, tolerance
        self.equal, self.align, self.at_least = equal, align, at_least
        self.inputs: dict[str, Tensor] | None = None

    def blocks(self) -> tuple[Made, list[Unit], list[str]]:
        """Return a copy without dead heads and neurons, its blocks, and why some stay."""
        found = self.units(self.model)
        kinds = list(dict.fromkeys(unit.kind for unit in found if not bool(unit.alive.all())))
        wanted: dict[str, Mode] = dict.fromkeys(kinds, "strict")
        notes: list[str] = []
        made = self.tried(wanted)
        if isinstance(made, str):
            wanted = {}
            for kind in kinds:
                reason = ""
                for mode in MODES:
                    tried = self.tried({kind: mode})
                    if not isinstance(tried, str):
                        wanted[kind] = mode
                        break
                    reason = reason or tried
                else:
                    notes.append(f"{kind}: its blocks stay as wide as they are: {reason}")
            made = self.tried(wanted)
        if isinstance(made, str):
            raise CompactionError(f"each kind of block can be made smaller, but not all together: {made}")
        result, units = made
        for unit in found:
            notes += [f"{unit.block.name}: {count} dead stay: {why}" for why, count in unit.notes.items()]
        return result, units, notes

    def tried(self, kinds: dict[str, Mode]) -> tuple[Made, list[Unit]] | str:
        """Cut a copy in these kinds of blocks; return it with all blocks, or why it is not the same model."""
        with task("cutting out what is dead" + (f": {', '.join(kinds)}" if kinds else "")):
            return self._tried(kinds)

    def _tried(self, kinds: dict[str, Mode]) -> tuple[Made, list[Unit]] | str:
        made = self.copy()
        units = self.units(made)
        for unit in units:
            if unit.kind not in kinds:
                unit.alive[:] = True
        mine = [unit for unit in units if not bool(unit.alive.all())]
        if mine:
            constants.fold(mine, self._inputs(mine))
        cutting = Cutting(made)
        for unit in mine:
            cut(unit, cutting)
        if not cutting.fits():
            return "its experts would differ in width"
        loose = [kinds[unit.kind] == "loose" for unit in mine]
        for unit, more in zip(mine, loose, strict=True):
            cut_companions(made, unit, loose=more)
        for unit, more in zip(mine, loose, strict=True):
            set_numbers(made, unit, loose=more)
        if "configured" in kinds.values():
            say_heads(self.model, made, units)
        cutting.apply()
        try:
            difference = self.runner.difference(made) if mine else 0.0
        except CompactionError as error:
            return str(error)
        if not difference <= self.tolerance:
            return f"its outputs would differ by {difference:.3g}"
        return Made(made), units

    def units(self, made: nn.Module) -> list[Unit]:
        """Return the blocks of a copy, with the units that stay."""
        anatomy = read(made)
        if anatomy is None:
            return []
        found = find(anatomy, lambda name: type(made.get_submodule(name)).__name__)
        dead = [unit for unit in found if not bool(unit.alive.all())]
        settle(found, equal=self.equal, align=self.align, at_least=self.at_least)
        if dead:
            constants.check(dead, self._inputs(dead))
            settle(found, equal=self.equal, align=self.align, at_least=self.at_least)
        return found

    def copy(self) -> nn.Module:
        """Return a copy of the model with weights of its own."""
        return remade(self.model, lambda _, tensor: tensor.clone())

    def _inputs(self, units: Iterable[Unit]) -> dict[str, Tensor]:
        if self.inputs is None:
            self.inputs = self.runner.inputs([unit.reader for unit in units])
        return self.inputs


def without_channels(made: Made, attempts: Attempts, example_inputs: Any) -> tuple[int, list[str]]:
    """Take dead channels out where there are any that no block has; return how many, and why some stay."""
    if not channels.candidates(made.model):
        return 0, []
    if any(not parameter.numel() for parameter in made.model.parameters()):
        why = "they are not followed where a block has nothing left (--at-least 1, `at_least=1` in Python, keeps one)"
        return 0, [f"dead channels stay: {why}"]
    try:
        found = coupled(made.model, example_inputs)
    except PlanError as error:
        return 0, [f"dead channels stay: {error}"]
    copy = remade(made.model, lambda _, tensor: tensor.clone())
    count = channels.cut(copy, found, align=attempts.align)
    if not count:
        return 0, []
    try:
        difference = attempts.runner.difference(copy)
    except CompactionError as error:
        return 0, [f"dead channels stay: without them {error}"]
    if not difference <= attempts.tolerance:
        return 0, [f"dead channels stay: without them outputs would differ by {difference:.3g}"]
    made.model = copy
    return count, []
