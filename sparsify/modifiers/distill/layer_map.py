"""Which layer of the student is compared with which of the teacher, in original numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsify.anatomy import Anatomy
from sparsify.anatomy.parts import Layer


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student and one of the teacher."""

    student: Layer
    teacher: Layer


def stacks(anatomy: Anatomy) -> list[list[Layer]]:
    """Return the layers of each stack, in order; an encoder and a decoder are two."""
    found: dict[str, list[Layer]] = {}
    for layer in anatomy.layers:
        found.setdefault(layer.stack, []).append(layer)
    return list(found.values())


def unmatched(student: Anatomy, pairs: Sequence[tuple[int, int]]) -> str | None:
    """Return why explicit pairs do not fit the student, or None."""
    if len(stacks(student)) != 1:
        return "pairs of layers are for models with one stack of layers; leave `layers` out"
    known = [layer.origin for layer in student.layers]
    missing = [number for number, _ in pairs if number not in known]
    if missing:
        return f"the model has no layer {missing[0]} (it has {_listed(known)}, by their original numbers)"
    return None


def layer_pairs(
    student: Anatomy, teacher: Anatomy, pairs: Sequence[tuple[int, int]] | None
) -> tuple[list[LayerPair], str | None]:
    """Return what is compared, or why it cannot be.

    Without explicit pairs, a layer is compared with the teacher's of its original number where the teacher has as many
    layers as the student had; else layer i of n with layer ⌈(i + 1) · m / n⌉ − 1 of m, so that the last meet.
    """
    mine, theirs = stacks(student), stacks(teacher)
    if pairs is not None:
        if problem := unmatched(student, pairs):
            return [], problem
        if len(theirs) != 1:
            return [], "the teacher has several stacks of layers; leave `layers` out"
        own = {layer.origin: layer for layer in student.layers}
        other = {layer.origin: layer for layer in teacher.layers}
        missing = [number for _, number in pairs if number not in other]
        if missing:
            return [], f"the teacher has no layer {missing[0]} (it has {_listed(list(other))})"
        return [LayerPair(own[one], other[two]) for one, two in pairs], None
    if len(mine) != len(theirs):
        return [], f"the model has {len(mine)} stacks of layers, the teacher {len(theirs)}"
    return [pair for one, two in zip(mine, theirs, strict=True) for pair in _matched(one, two)], None


def _matched(student: Sequence[Layer], teacher: Sequence[Layer]) -> list[LayerPair]:
    by_number = {layer.origin: layer for layer in teacher}
    dropped = any(layer.origin != layer.index for layer in student)
    if (dropped or len(student) == len(teacher)) and all(layer.origin in by_number for layer in student):
        return [LayerPair(layer, by_number[layer.origin]) for layer in student]
    many, few = len(teacher), len(student)
    return [LayerPair(layer, teacher[-(-(place + 1) * many // few) - 1]) for place, layer in enumerate(student)]


def _listed(numbers: Sequence[int]) -> str:
    whole = list(range(numbers[0], numbers[0] + len(numbers))) if numbers else []
    return (
        f"{numbers[0]} to {numbers[-1]}"
        if len(numbers) > 2 and list(numbers) == whole
        else ", ".join(map(str, numbers))
    )
