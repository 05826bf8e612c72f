"""Dead structure leaves a model: its outputs stay what they are."""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torch import nn

from sparsify.anatomy import Attention
from sparsify.applied import at_work
from sparsify.compaction.attempts import Attempts, without_channels
from sparsify.compaction.empty_layers import drop_empty
from sparsify.compaction.experts import without_experts
from sparsify.compaction.running import Runner
from sparsify.compaction.stock import Loading, fit_config
from sparsify.compaction.units import Unit
from sparsify.errors import CompactionError
from sparsify.layers import adapted, unprunable, unwrap

TOLERANCE = 1e-5
"""How far outputs may move, relative to their largest value."""


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

    experts: tuple[str, ...]
    """Experts that are gone, by their names before; blocks in `widths` have the numbers of those that are left."""

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
    """Return a smaller copy of a model without what is dead in it; see `compacted`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import sparsify
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2)).eval()
        >>> with torch.no_grad():  # what a recipe with coupled channels leaves behind
        ...     _ = model[0].weight[4:].zero_()
        ...     _ = model[0].bias[4:].zero_()
        >>> images = torch.randn(1, 3, 8, 8)
        >>> small = sparsify.compact(model, example_inputs=images)
        >>> small[0].out_channels, small[3].in_features
        (4, 144)
        >>> torch.allclose(small(images), model(images), atol=1e-6)
        True
    """
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
    """Make a smaller copy of a model without its dead heads, neurons, experts, channels and layers.

    The model stays as it is. A neuron is dead where its row of up (or gate), or its column of down, is zero; a head
    where its rows of value or its columns of output are; an expert where its down is. What they hand on all the same
    (an activation of a bias) goes into the next bias; where it cannot, they stay. `equal` keeps as many in every layer
    (so that stock transformers loads more models), `align` keeps widths at multiples (neurons and channels),
    `at_least` so many heads and neurons in every block. Both models are run on random inputs, or on `example_inputs`
    (a tensor, a tuple of arguments, a mapping by name), in float64 where that fits.

    Raises CompactionError for a model that a manager is still at work on, one that cannot be run, and where outputs
    would move by more than `tolerance`, relative to the largest.
    """
    base = unwrap(model)
    _check(base, align, tolerance)
    runner = Runner(base, example_inputs)
    start, experts, notes = without_experts(base, runner.difference, tolerance)
    attempts = Attempts(start, runner, equal, align, at_least, tolerance)
    made, units, more = attempts.blocks()
    notes += more
    gone_channels, more = without_channels(made, attempts, example_inputs)
    notes += more
    layers, more = drop_empty(made.model, lambda candidate: runner.difference(candidate) <= tolerance, runner.hands_on)
    notes += more
    loading = fit_config(base, made.model)
    difference = runner.difference(made.model)
    if not difference <= tolerance:  # each step was checked; this is all of them together
        raise CompactionError(f"the outputs of the smaller model differ by {difference:.3g}, more than {tolerance:g}")
    counts = tuple(sum(p.numel() for p in each.parameters()) for each in (base, made.model))
    notes += [f"{name} {reason}" for name, reason in unprunable(base).items()]
    widths = tuple(_width(unit) for unit in units)
    return Compacted(
        made.model, (counts[0], counts[1]), widths, layers, experts, gone_channels, difference, loading, tuple(notes)
    )


def _check(model: nn.Module, align: int, tolerance: float) -> None:
    """Raise CompactionError for what cannot be made smaller, whatever is dead in it."""
    if at_work(model):
        raise CompactionError(
            "a manager is still applied to the model: call finalize() first, since pruned weights might still come back"
        )
    if any(True for _ in adapted(model)):
        raise CompactionError(
            f"{type(model).__name__} has adapters of PEFT: merge them into the base first (sparsify.adapters.merge "
            "keeps its zeros)"
        )
    for name, module in model.named_modules():
        if isinstance(vars(module).get("forward"), FunctionType):
            raise CompactionError(
                f"the forward of {name or type(module).__name__} was replaced by a function, which might run the model "
                "as it is: put its own back first (`del module.forward`)"
            )
    if align < 1:
        raise CompactionError(f"align is {align}: widths are multiples of 1 or more")
    if not 0 < tolerance < 1:
        raise CompactionError(f"tolerance is {tolerance}: it must lie between 0 and 1")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CompactionError(f"{type(model).__name__} has no weights (they are on the meta device)")


def _width(unit: Unit) -> Width:
    block = unit.block
    if not isinstance(block, Attention):
        return Width(block.name, "neurons", len(unit.alive), int(unit.alive.sum()))
    groups = unit.alive.view(block.groups, -1)
    lives = groups.any(1)
    if block.groups == block.heads or not bool((groups.all(1) == lives).all()):
        return Width(block.name, "heads", block.heads, int(unit.alive.sum()))
    return Width(block.name, "groups", block.groups, int(lives.sum()))
