"""The base of patterns whose groups span several tensors of a block, known by its anatomy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from sparsify.anatomy import Anatomy
from sparsify.layers import Rows, Weight
from sparsify.patterns.base import Equal, Misfit
from sparsify.patterns.bundle import Bundle, Part


class Spanning(Equal):
    """Each block of the role is a bundle; its tensors are targeted together or not at all."""

    by_row: ClassVar[bool] = False

    def blocks(self, anatomy: Anatomy) -> Iterator[Bundle]:
        """Yield a bundle for every block of the model."""
        raise NotImplementedError(type(self).__name__)

    def bundles(self, weights: Sequence[Weight], anatomy: Anatomy | None) -> tuple[list[Bundle], list[Misfit]]:
        if anatomy is None or not anatomy.layers:
            return [], [Misfit(f"the pattern {self.type!r} needs a model with layers: nothing repeats in this one")]
        bundles, targeted = list(self.blocks(anatomy)), Rows(weights)
        meant: list[Bundle] = []
        cut: dict[int, list[str]] = {}
        for bundle in bundles:
            matrices = [part.weight for part in bundle.parts if part.weight.layout != "bias"]
            hit = sum(targeted.shared(matrix) for matrix in matrices)
            if hit == sum(matrix.geometry.rows for matrix in matrices):
                meant.append(bundle)
            elif hit:
                cut.setdefault(len(matrices), []).append(bundle.name)
        doubts: dict[str, list[str]] = {}
        for bundle in meant:
            if bundle.doubt:
                doubts.setdefault(bundle.doubt, []).append(bundle.name)
        covered = Rows(anatomy.role(self.role))
        strange = tuple(weight.name for weight in weights if not covered.shared(weight))
        misfits = []
        if strange:
            reason = f"is in no {self.role} block, so it has no {self.type}s (write `targets: {self.role}`)"
            misfits.append(Misfit(reason, strange, "targets"))
        for doubt, names in doubts.items():
            misfits.append(Misfit(f"its {self.type}s cannot be pruned as wholes, {doubt}", tuple(names), "targets"))
        for count, names in cut.items():
            reason = f"targeted in part, but a {self.type} spans {count} matrices (write `targets: {self.role}`)"
            misfits.append(Misfit(reason, tuple(names), "targets"))
        if not meant and not misfits:  # what is targeted lies beside the groups, as key and value do beside a quota
            reason = f"no tensor that belongs to a {self.type} is targeted (write `targets: {self.role}`)"
            if weights and not bundles:
                reason = f"nothing tells where one {self.type} ends and the next begins in {weights[0].name}"
            misfits.append(Misfit(reason, key="targets"))
        return meant, misfits


def along(weight: Weight, groups: int) -> Part:
    """Return a part whose groups are equal runs of rows."""
    size = weight.geometry
    return Part(weight, (size.rows // groups, size.taps, size.columns))


def across(weight: Weight, groups: int) -> Part:
    """Return a part whose groups are equal runs of columns."""
    size = weight.geometry
    return Part(weight, (size.rows, size.taps, size.columns // groups))


def with_biases(weights: Iterable[Weight], groups: int) -> list[Part]:
    """Return the parts of matrices cut along their rows, each followed by its bias."""
    found = []
    for weight in weights:
        bias = weight.bias()
        found += [weight] if bias is None else [weight, bias]
    return [along(weight, groups) for weight in found]
