"""Dead structure leaves a model: its outputs stay what they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from sparsify.anatomy import Attention, read
from sparsify.applied import at_work
from sparsify.compaction import channels, constants
from sparsify.compaction.attributes import set_numbers
from sparsify.compaction.companions import cut_companions
from sparsify.compaction.cutting import Cutting
from sparsify.compaction.empty_layers import drop_empty
from sparsify.compaction.running import Runner
from sparsify.compaction.stock import Loading, fit_config, say_heads
from sparsify.compaction.units import Unit, cut, find, settle
from sparsify.errors import CompactionError, PlanError
from sparsify.layers import unwrap
from sparsify.layers.outline import remade
from sparsify.structure.graph import channels as coupled

TOLERANCE = 1e-5
"""How far outputs may move, relative to their largest value."""


Mode = Literal["strict", "loose", "configured"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""How a kind of block is cut, in the order in which it is tried: what certainly belongs to it; also what has as many
features; with the configuration, which the forward reads, saying how many heads there are."""


@dataclass(frozen=True)
class Width:
    """How many units a block had, and has."""

    block: str
    kind: str
    """`heads`, `groups` (key and value heads with all their queries) or `neurons`."""

    before: int
    after: int


@dataclass(frozen=True)
class Compacted:
    """A smaller model that computes the same, and what left it."""

    model: nn.Module
    parameters: tuple[int, int]
    """Before and afterwards."""

    widths: tuple[Width, ...]
    layers: tuple[str, ...]
    """Layers that are gone, by their names before."""

    channels: int
    """Channels of convolutions, and of what else is followed, that are gone."""

    difference: float
    """Of the outputs on random inputs, relative to their largest value."""

    loading: Loading
    notes: tuple[str, ...]
    """Why dead structure stays."""


def compact(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    equal: bool = False,
    align: int = 1,
    at_least: int = 0,
    tolerance: float = TOLERANCE,
) -> nn.Module:
    """Return a smaller copy of a model without its dead heads, neurons, channels and layers; see `compacted`."""
    return compacted(
        model, example_inputs=example_inputs, equal=equal, align=align, at_least=at_least, tolerance=tolerance
    ).model


def compacted(
    model: nn.Module,
    *,
    example_inputs: Any = None,
    equal: bool = False,
    align: int = 1,
    at_least: int = 0,
    tolerance: float = TOLERANCE,
) -> Compacted:
    """Make a smaller copy of a model without its dead heads, neurons, channels and layers; the model stays as it is.

    A neuron is dead where its row of up (or gate), or its column of down, is zero; a head where its rows of value or
    its columns of output are. What they hand on all the same (an activation of a bias) goes into the next bias; where
    it cannot, they stay. `equal` keeps as many in every layer (so that stock transformers loads more models), `align`
    keeps widths at multiples (neurons and channels), `at_least` so many heads and neurons in every block. Both models
    are run on random inputs, or on `example_inputs` (a tensor, a tuple of arguments, a mapping by name), in float64
    where that fits.

    Raises CompactionError for a model that a manager is still at work on, one that cannot be run, and where outputs
    would move by more than `tolerance`, relative to the largest.
    """
    base = unwrap(model)
    _check(base, align, tolerance)
    runner = Runner(base, example_inputs)
    attempts = _Attempts(base, runner, equal, align, at_least, tolerance)
    made, units, notes = attempts.blocks()
    gone_channels, more = _without_channels(made, attempts, example_inputs)
    notes += more
    layers, more = drop_empty(made.model, lambda candidate: runner.difference(candidate) <= tolerance)
    notes += more
    loading = fit_config(base, made.model)
    difference = runner.difference(made.model)
    if not difference <= tolerance:  # each step was checked; this is all of them together
        raise CompactionError(f"the outputs of the smaller model differ by {difference:.3g}, more than {tolerance:g}")
    counts = tuple(sum(p.numel() for p in each.parameters()) for each in (base, made.model))
    widths = tuple(_width(unit) for unit in units)
    return Compacted(
        made.model, (counts[0], counts[1]), widths, layers, gone_channels, difference, loading, tuple(notes)
    )


def _check(model: nn.Module, align: int, tolerance: float) -> None:
    if any(at_work(module) for module in [model]):
        raise CompactionError(
            "a manager is still at work on the model: call finalize() first; what is pruned now might come back"
        )
    if align < 1:
        raise CompactionError(f"align is {align}: widths are multiples of 1 or more")
    if not 0 < tolerance < 1:
        raise CompactionError(f"tolerance is {tolerance}: it must lie between 0 and 1")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CompactionError(f"{type(model).__name__} has no weights (they are on the meta device)")


@dataclass
class _Made:
    """A copy that was cut."""

    model: nn.Module
    difference: float


class _Attempts:
    """Cuts copies of a model, and tells whether they compute the same."""

    def __init__(
        self, model: nn.Module, runner: Runner, equal: bool, align: int, at_least: int, tolerance: float
    ) -> None:
        self.model, self.runner, self.tolerance = model, runner, tolerance
        self.equal, self.align, self.at_least = equal, align, at_least
        self.inputs: dict[str, Tensor] | None = None

    def blocks(self) -> tuple[_Made, list[Unit], list[str]]:
        """Return a copy without dead heads and neurons, its blocks, and why some stay."""
        found = self.units(self.copy())
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

    def tried(self, kinds: dict[str, Mode]) -> tuple[_Made, list[Unit]] | str:
        """Cut a copy in these kinds of blocks; return it with all blocks, or why it is not the same model."""
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
        return _Made(made, difference), units

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


def _without_channels(made: _Made, attempts: _Attempts, example_inputs: Any) -> tuple[int, list[str]]:
    """Take dead channels out where there are any that no block has; return how many, and why some stay."""
    if not channels.candidates(made.model):
        return 0, []
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


def _width(unit: Unit) -> Width:
    block = unit.block
    if not isinstance(block, Attention):
        return Width(block.name, "neurons", len(unit.alive), int(unit.alive.sum()))
    groups = unit.alive.view(block.groups, -1)
    lives = groups.any(1)
    if block.groups == block.heads or not bool((groups.all(1) == lives).all()):
        return Width(block.name, "heads", block.heads, int(unit.alive.sum()))
    return Width(block.name, "groups", block.groups, int(lives.sum()))
