"""From coupled channels to bundles: what a pattern competes with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.layers import Weight, all_weights, shared_rows
from sparsify.patterns.base import Misfit
from sparsify.patterns.bundle import Bundle, Part
from sparsify.structure.channels.data import ChannelSet, Side
from sparsify.structure.graph import channels

TOGETHER = "must die together with channels of {}, which are not targeted; these channels stay"


def coupled_bundles(
    model: nn.Module, weights: Sequence[Weight], example_inputs: Any = None
) -> tuple[list[Bundle], list[Misfit]]:
    """Return a bundle for every set of coupled channels that is targeted whole, and what is left out, with the reason.

    What is left out is only noted, unless nothing is left. Raises PlanError where channels cannot be followed.
    """
    found = channels(model, example_inputs)
    known = {weight.parameter_name: weight for weight in all_weights(model)}
    reasons: dict[str, list[str]] = defaultdict(list)
    bundles, covered = [], list[Weight]()
    for each in found.sets:
        parts = list(_parts(model, known, each))
        matrices = [part.weight for part in parts if part.weight.layout != "bias"]
        missing = [matrix for matrix in matrices if shared_rows(matrix, weights) < matrix.geometry.rows]
        if not missing:
            bundles.append(Bundle(each.name, tuple(parts), least=1))
        elif len(missing) < len(matrices):
            left = ", ".join(matrix.name for matrix in missing[:3]) + (", …" if len(missing) > 3 else "")
            reasons[TOGETHER.format(left)] += [matrix.name for matrix in matrices if matrix not in missing]
        covered += matrices
    for weight in weights:
        if not any(part.parameter is weight.parameter for part in covered):
            reasons[f"its channels stay ({_why(found.whole, found.unseen, weight)})"].append(weight.name)
    misfits = [Misfit(reason, tuple(names), "targets", note=bool(bundles)) for reason, names in reasons.items()]
    return bundles, misfits


def _why(whole: dict[str, str], unseen: Sequence[str], weight: Weight) -> str:
    if weight.layout == "embedding":
        return "an embedding has none"
    if weight.parameter_name in unseen:
        return "the forward does not use it"
    return whole.get(weight.parameter_name, "they are not followed")


def _parts(model: nn.Module, known: dict[str, Weight], each: ChannelSet) -> Iterator[Part]:
    """Yield the parts of a set: what computes channels first, then biases and norms."""
    for side in sorted(each.dying, key=lambda side: side.kind != "output"):
        weight = known[side.name] if side.kind == "output" else _line(model, side.name)
        for start, stop, groups in _runs(side):
            rows = weight.rows(start, stop)
            size = rows.geometry
            if torch.equal(groups, torch.arange(each.count)):
                yield Part(rows, (1, size.taps, size.columns))
            else:
                yield Part.lined(rows, groups, each.count)


def _line(model: nn.Module, name: str) -> Weight:
    """Return a bias, a scale or a shift as a weight."""
    owner, _, attribute = name.rpartition(".")
    return Weight(name, model.get_submodule(owner), attribute, "bias")


def _runs(side: Side) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first, last + 1, groups) of places that are neighbours."""
    cuts = [0, *((side.places.diff() != 1).nonzero().flatten() + 1).tolist(), len(side.places)]
    for first, stop in pairwise(cuts):
        yield int(side.places[first]), int(side.places[stop - 1]) + 1, side.groups[first:stop]
