"""Where tensors stand in a model: their role, their stack and their layer; by these a plan is shown in few lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparsify.anatomy import Anatomy

Places = Mapping[str, tuple["Place", ...]]
"""Name of a tensor → its places; several where one parameter holds several matrices."""


@dataclass(frozen=True)
class Place:
    """A weight in a layer."""

    role: str
    stack: str
    layer: int


def places(anatomy: Anatomy | None) -> Places:
    """Return the places of all weights inside the layers, by the names of weights and of whole parameters."""
    found: dict[str, list[Place]] = {}
    for layer in anatomy.layers if anatomy else ():
        for role, weight in layer.roles():
            for name in {weight.name, weight.parameter_name}:
                found.setdefault(name, []).append(Place(role, layer.stack, layer.index))
    return {name: tuple(each) for name, each in found.items()}


@dataclass(frozen=True)
class Spot:
    """What tensors that are pruned together are shown under: alike in all layers."""

    what: str
    """Their role; without one, their name with a `*` for its numbers."""

    stack: str
    layers: tuple[int, ...]


def spot(names: Sequence[str], places: Places) -> Spot:
    """Return what some tensors are shown under; `names` are one, or those of a bundle."""
    mine = [place for name in names for place in places.get(name, ())]
    stacks = {place.stack for place in mine}
    stack = stacks.pop() if len(stacks) == 1 else ""
    layers = tuple(sorted({place.layer for place in mine}))
    roles = dict.fromkeys(place.role for place in mine)
    if mine and all(roles):  # what has no place, as biases, goes with what has one
        return Spot(_role(list(roles), whole=len(names) > 1), stack, layers)
    return Spot(pattern(names[0]), stack, layers)


def _role(roles: Sequence[str], *, whole: bool) -> str:
    """Return one name for roles: what they share for a block, `attention.query/key/value` for a matrix of several."""
    if len(roles) == 1:
        return roles[0]
    heads = {role.partition(".")[0] for role in roles}
    if len(heads) > 1:
        return ", ".join(roles)
    head = heads.pop()
    return head if whole else f"{head}.{'/'.join(role.partition('.')[2] for role in roles)}"


def pattern(name: str) -> str:
    """Return a name with a `*` for every number between dots (`layers.3.mlp` → `layers.*.mlp`)."""
    return re.sub(r"(?<![^.])\d+(?![^.\[])", "*", name)


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges: `0-5, 8`."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
