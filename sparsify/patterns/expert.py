"""Experts: one of the feed-forward blocks of which every token takes some, as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from sparsify.anatomy import Anatomy
from sparsify.layers import Rows, Weight
from sparsify.patterns.base import Misfit
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.spanning import Spanning, with_biases


class Expert(Spanning):
    """One group an expert: all its matrices in a layer, with their biases. At least as many stay as a token goes to.

    The router is left alone: it still sends tokens to an expert that died, which adds nothing to them. Source: Lu et
    al., "Not All Experts are Equal" (2024), for the structure.
    """

    type: Literal["expert"] = "expert"
    role: ClassVar[str] = "experts"

    def bundles(self, weights: Sequence[Weight], anatomy: Anatomy | None) -> tuple[list[Bundle], list[Misfit]]:
        lists = [experts for experts in anatomy.experts if not experts.stacks] if anatomy is not None else []
        targeted = Rows(weights)
        apart = [
            experts.name
            for experts in lists
            if any(targeted.shared(weight) for member in experts.members for _, weight in member.roles())
        ]
        if apart:
            reason = (
                "its experts are modules of their own, and only those that share their parameters can die as wholes"
            )
            return [], [Misfit(reason, tuple(apart))]
        return super().bundles(weights, anatomy)

    def blocks(self, anatomy: Anatomy) -> Iterator[Bundle]:
        for experts in anatomy.experts:
            if experts.stacks:
                yield Bundle(experts.name, tuple(with_biases(experts.stacks, experts.count)), least=experts.least)
