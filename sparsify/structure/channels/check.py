"""Whether coupled channels are what they seem, tried with numbers on a random twin.

Where groups are dead (everything that computes them is zero), what reads them must not matter; and where nothing reads
them, what computes them must not matter. Both are tried with random values: outputs must not move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from sparsify.structure.channels.data import ChannelSet, Side
from sparsify.structure.channels.follower import tensors_in
from sparsify.structure.channels.inputs import Inputs

TOLERANCE = 1e-5
"""Of the largest output: float32 sums in another order."""

MATTERS = 10 * TOLERANCE
"""How much channels must matter to the outputs, to first order, for the check to say anything."""


class Check:
    """Tries sets of channels on a twin, whose parameters are as before afterwards."""

    def __init__(self, twin: nn.Module, inputs: Inputs, seconds: float) -> None:
        self.twin, self.inputs = twin, inputs
        self.parameters = dict(twin.named_parameters(remove_duplicate=False))
        self.scales = {name: float(each.detach().std(correction=0)) or 1.0 for name, each in self.parameters.items()}
        """What random values are multiplied with, so that they do not grow from layer to layer."""

        self._until = time.process_time() + seconds

    def refused(self, sets: Sequence[ChannelSet]) -> dict[str, str]:
        """Return the names of sets that are not what they seem, or of which it is not known → why."""
        if not sets:
            return {}
        found = self._without_effect(sets)
        open_sets = [each for each in sets if each.name not in found]
        if not open_sets or self._holds(open_sets):
            return found
        for each in open_sets:
            if time.process_time() > self._until:
                found[each.name] = "the numeric check had not time enough to tell which channels are wrong"
            elif not self._holds([each]):
                found[each.name] = (
                    "dead channels change the outputs of a random twin: they are coupled to something else"
                )
        rest = [each for each in open_sets if each.name not in found]
        if rest and not self._holds(rest):
            found |= dict.fromkeys((each.name for each in rest), "dead channels change the outputs of a random twin")
        return found

    def _holds(self, sets: Sequence[ChannelSet]) -> bool:
        """Whether outputs stay where they are, whatever dead channels compute, and whatever reads them."""
        generator = torch.Generator().manual_seed(2)
        dead = {each.name: _some(each, generator) for each in sets}
        dying = [(side, dead[each.name]) for each in sets for side in each.dying]
        reading = [(side, dead[each.name]) for each in sets for side in each.reading]
        before = {side.name: self.parameters[side.name].detach().clone() for side, _ in (*dying, *reading)}
        try:
            self._write(dying, _zeros)
            wanted = self._outputs()
            self._write(reading, _random(generator))
            read = self._outputs()
            self._write(reading, _zeros)
            self._write(dying, _random(generator))
            written = self._outputs()
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    self.parameters[name].copy_(value)
        return _alike(wanted, read) and _alike(wanted, written)

    def _write(self, sides: Iterable[tuple[Side, Tensor]], values: Callable[[torch.Size], Tensor]) -> None:
        """Write into the places of dead groups."""
        with torch.no_grad():
            for side, dead in sides:
                places = side.places[dead[side.groups]]
                parameter = self.parameters[side.name]
                shape = list(parameter.shape)
                shape[side.axis] = len(places)
                parameter.index_copy_(side.axis, places, values(torch.Size(shape)) * self.scales[side.name])

    def _outputs(self) -> list[Tensor]:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [each.clone() for each in tensors_in(self.inputs.run(self.twin)) if each.is_floating_point()]

    def _without_effect(self, sets: Sequence[ChannelSet]) -> dict[str, str]:
        """Return the sets that matter so little to the outputs that nothing could be seen."""
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = [each for each in tensors_in(self.inputs.run(self.twin)) if each.is_floating_point()]
            outputs = [each for each in outputs if each.requires_grad and bool(each.detach().isfinite().all())]
            total = sum(
                (each / each.detach().abs().max().clamp_min(1e-30) * torch.randn(each.shape)).sum() for each in outputs
            )
        why = "what they compute does not matter to the outputs of a random twin, so nothing can be checked"
        names = [side.name for each in sets for side in each.sides if side.kind == "output"]
        wanted = {name: self.parameters[name] for name in names if self.parameters[name].requires_grad}
        if not isinstance(total, Tensor) or not wanted:
            return dict.fromkeys((each.name for each in sets), why)
        slopes = dict(zip(wanted, torch.autograd.grad(total, list(wanted.values()), allow_unused=True), strict=True))
        found = {}
        for each in sets:
            effect = 0.0
            for side in each.sides:
                slope = slopes.get(side.name)
                if side.kind == "output" and slope is not None:
                    change = (slope * self.parameters[side.name].detach()).index_select(side.axis, side.places)
                    effect += float(change.abs().sum())
            if not effect > MATTERS:
                found[each.name] = why
        return found


def _some(each: ChannelSet, generator: torch.Generator) -> Tensor:
    """Choose half of the groups, at least one; bool, by group."""
    dead = torch.zeros(each.count, dtype=torch.bool)
    dead[torch.randperm(each.count, generator=generator)[: max(each.count // 2, 1)]] = True
    return dead


def _zeros(shape: torch.Size) -> Tensor:
    return torch.zeros(shape)


def _random(generator: torch.Generator) -> Callable[[torch.Size], Tensor]:
    return lambda shape: torch.randn(shape, generator=generator)


def _alike(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether outputs are the same but for rounding."""
    if len(wanted) != len(found):
        return False
    for one, other in zip(wanted, found, strict=True):
        if one.shape != other.shape:
            return False
        apart = (one - other).abs()[~(one == other)]
        if apart.numel() and not float(apart.max()) <= TOLERANCE * float(one.abs().max()):
            return False
    return True
