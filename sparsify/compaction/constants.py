"""What dead units hand on: a constant, which goes into the bias of what reads them, or they stay.

The value row of a dead head is empty, so it hands on the bias of its value (attention weights add up to 1); a dead
neuron hands on its activation of its bias. What it really is is measured, so that no activation need be known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify.compaction.units import Unit

SAME = 1e-6
"""How far apart the values of a constant may lie, relative to the largest value that the reader is given."""


def check(units: list[Unit], inputs: dict[str, Tensor]) -> None:
    """Let those dead units stay that hand on something that cannot go elsewhere.

    `inputs`: what every reader is given, [places, features].
    """
    for unit in units:
        speaking = ~unit.alive & ~unit.silent
        given = _given(unit, inputs)
        if not bool(speaking.any()):
            continue
        if given is None:
            biases = [weight.bias() for _, weight in unit.block.roles() if weight != unit.output]
            if any(bias is not None and bool((bias.tensor != 0).any()) for bias in biases):
                unit.keep(speaking, "what they hand on cannot be measured")
            continue
        lines = given.T.reshape(len(unit.alive), -1)
        values = given.T.reshape(len(unit.alive), -1, len(given))
        spread = (values.amax(-1) - values.amin(-1)).amax(1)
        largest = float(lines.abs().max()) or 1.0
        unit.keep(speaking & (spread > SAME * largest).cpu(), "what they hand on changes with the input")
        if unit.output.bias() is None:
            adds = _added(unit, given).abs().amax(0) if bool((~unit.alive).any()) else torch.zeros(1)
            unit.keep(speaking & (adds > 0), "what they hand on is constant, and there is no bias to add it to")


def _given(unit: Unit, inputs: dict[str, Tensor]) -> Tensor | None:
    """Return what the matrix that reads a unit is given; None for experts that share theirs: tokens come to all."""
    return None if unit.output.storage.stack else inputs.get(unit.reader)


def _added(unit: Unit, given: Tensor) -> Tensor:
    """Return what every unit adds to the outputs, where it is constant; float64 [outputs, units]."""
    means = given.double().mean(0)
    matrix: Tensor = unit.output.cube(unit.output.tensor).flatten(1).cpu().double()
    return (matrix * means).view(len(matrix), len(unit.alive), -1).sum(-1)


def fold(units: list[Unit], inputs: dict[str, Tensor]) -> None:
    """Add to biases, in place, what the units that leave have handed on; once where blocks share their weights."""
    done: set[int] = set()
    for unit in units:
        gone = ~unit.alive & ~unit.silent
        bias, given = unit.output.bias(), _given(unit, inputs)
        if bias is None or given is None or not bool(gone.any()) or id(bias.parameter) in done:
            continue
        if bias.span is None:
            done.add(id(bias.parameter))
        value = bias.parameter.data.double()
        extra = _added(unit, given)[:, gone].sum(1).to(value.device)
        region = bias.region(value)
        region += extra
        bias.parameter.data.copy_(value)
