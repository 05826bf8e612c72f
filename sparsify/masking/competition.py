"""The product of the axes: bundles, a criterion, a pattern and a scope make masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsify.anatomy import Anatomy
from sparsify.criteria import Criterion
from sparsify.masking.contenders import held, of_groups, of_weights, rows_of
from sparsify.masking.groups import Ranking, expand, tile_scores
from sparsify.masking.rows import select_in_rows
from sparsify.masking.selection import Contender, budget, check_scores, select
from sparsify.patterns import Pattern
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.reduction import Reduction
from sparsify.scopes import Scope
from sparsify.scopes.base import Arena, Entrant

LearnedScores = Mapping[str, Tensor]
"""By the name of the bundle: of single weights in the weight's shape, else 1-D, one for each tile."""


@dataclass(frozen=True)
class Share:
    """Bundles that truly compete, by index, and the sparsity that they reach together."""

    members: Arena
    sparsity: float


@dataclass(frozen=True)
class Competition:
    """Who competes with whom, by what, for what. Bundles stand in the order in which ties are settled."""

    bundles: tuple[Bundle, ...]
    entrants: tuple[Entrant, ...]
    criterion: Criterion
    pattern: Pattern
    scope: Scope

    @classmethod
    def of(
        cls,
        bundles: Sequence[Bundle],
        criterion: Criterion,
        pattern: Pattern,
        scope: Scope,
        anatomy: Anatomy | None = None,
    ) -> Competition:
        """Return the competition of bundles in a model of this anatomy."""
        places = _places(anatomy) if anatomy is not None else {}
        entrants = tuple(_entrant(bundle, pattern, places) for bundle in bundles)
        return cls(tuple(bundles), entrants, criterion, pattern, scope)

    @cached_property
    def arenas(self) -> list[Arena]:
        """Who shares a budget."""
        return self.scope.arenas(self.entrants)

    def shares(self, arena: Arena, sparsity: float) -> list[Share]:
        """Divide the sparsity of an arena."""
        return [Share(members, own) for members, own in self.scope.shares(sparsity, arena, self.entrants)]

    def elements(self, members: Arena) -> int:
        """Return the number of weights of some bundles."""
        return sum(self.bundles[index].elements for index in members)

    # ------------------------------------------------------------------ masks

    @torch.no_grad()
    def masks(
        self,
        sparsity: Callable[[Arena], float],
        before: Mapping[str, Tensor] | None = None,
        learned: LearnedScores | None = None,
    ) -> dict[str, Tensor]:
        """Return a bool mask (True = keep, in its own shape) of every tensor, by name.

        `sparsity` is asked for every arena. `before` are masks (of all tensors, in their shapes) whose pruned groups
        go first: they are zero, so they would anyhow, but where groups are of different sizes, another order among
        them would let some come back. `learned` are scores by bundle, which are ranked in place of the weights'.
        Raises ScoreError for scores that cannot be ranked.
        """
        masks: dict[str, Tensor] = {}
        for arena in self.arenas:
            for share in self.shares(arena, sparsity(arena)):
                chosen = self._in_rows(share, learned) if self.scope.by_row else self._together(share, before, learned)
                for index, tiles in zip(share.members, chosen, strict=True):
                    masks |= expand(self.bundles[index], tiles)
        return masks

    @torch.no_grad()
    def above(self, members: Arena, cut: float, floor: float, learned: LearnedScores) -> list[tuple[Tensor, Tensor]]:
        """Return (kept, passed) of the tiles of some bundles, bool, 1-D.

        Passed are those whose group's learned score lies above `cut`; kept are these, what the pattern guards, and,
        of a bundle with fewer than `floor` of its groups left, the highest that reach it exactly, the later of equals.
        """
        found = []
        for bundle in (self.bundles[index] for index in members):
            ranking = None if bundle.single else self._ranking(bundle, learned)
            contender = self._single(bundle, learned) if ranking is None else of_groups(ranking)
            scores = contender.read(0, contender.count, 1)
            check_scores(bundle.name, scores, contender.protected)
            kept = scores > cut
            passed = kept if not contender.protected else kept & (scores != torch.inf)
            least = _at_least(floor, contender.count)
            if int(torch.count_nonzero(kept)) < least:
                kept = select_in_rows(scores.view(1, -1), contender.count - least).view(-1)
            found.append((kept, passed) if ranking is None else (ranking.tiles(kept), ranking.tiles(passed)))
        return found

    @torch.no_grad()
    def lock(self) -> dict[str, Tensor]:
        """Return masks that keep every group in which a weight has a positive score."""
        masks: dict[str, Tensor] = {}
        for bundle in self.bundles:
            masks |= expand(bundle, tile_scores(bundle, self.criterion, "max") > 0)
        return masks

    def _together(
        self, share: Share, before: Mapping[str, Tensor] | None, learned: LearnedScores | None
    ) -> list[Tensor]:
        bundles = [self.bundles[index] for index in share.members]
        rankings = [None if bundle.single else self._ranking(bundle, learned) for bundle in bundles]
        elements = budget(share.sparsity, self.elements(share.members))
        if before is not None and not _even(bundles):
            gone = [0 if ranking is None else ranking.put_first(before) for ranking in rankings]
            elements = max(elements, sum(gone))
        contenders = [
            self._single(bundle, learned) if ranking is None else of_groups(ranking)
            for bundle, ranking in zip(bundles, rankings, strict=True)
        ]
        chosen = _bounded(contenders, elements, *self.scope.bounds(share.sparsity))
        return [
            mask if ranking is None else ranking.tiles(mask) for ranking, mask in zip(rankings, chosen, strict=True)
        ]

    def _single(self, bundle: Bundle, learned: LearnedScores | None) -> Contender:
        return of_weights(bundle, self.criterion, self.pattern, None if learned is None else learned[bundle.name])

    def _ranking(self, bundle: Bundle, learned: LearnedScores | None) -> Ranking:
        return Ranking(bundle, self._tiles(bundle, learned), self._how)

    def _tiles(self, bundle: Bundle, learned: LearnedScores | None) -> Tensor:
        return tile_scores(bundle, self.criterion, self._how) if learned is None else learned[bundle.name]

    @property
    def _how(self) -> Reduction:
        how: Reduction = getattr(self.pattern, "reduce_by", "mean")
        return how

    def _in_rows(self, share: Share, learned: LearnedScores | None) -> list[Tensor]:
        masks = []
        for bundle in (self.bundles[index] for index in share.members):
            height, width = _rows_of_tiles(bundle)
            if bundle.single:
                scores: Iterator[Tensor] = rows_of(self._single(bundle, learned), width)
            else:
                tiles = self._tiles(bundle, learned).view(height, width)
                check_scores(bundle.name, tiles)
                scores = iter([tiles])
            groups = _groups_in_rows(bundle, share.sparsity)
            kept = [select_in_rows(rows, groups) for rows in scores]
            masks.append(torch.cat(kept).flatten() if kept else torch.empty(0, dtype=torch.bool))
        return masks

    # ------------------------------------------------------------------ what is known beforehand

    def impossible(self, sparsity: float) -> str | None:
        """Return why the sparsity cannot be reached, or None."""
        for arena in self.arenas:
            elements = self.elements(arena)
            most = sum(self._prunable(index) for index in arena)
            if most < budget(sparsity, elements):
                first = self.bundles[arena[0]].name
                more = f" and {len(arena) - 1} more" if len(arena) > 1 else ""
                return f"{first}{more}: at most {most / elements:.4g} can be pruned, got {sparsity:g}"
        return None

    def _prunable(self, index: int) -> int:
        """Return how many weights of a bundle may be pruned."""
        bundle, entrant = self.bundles[index], self.entrants[index]
        most = min(self.scope.bounds(1.0)[1], entrant.most)
        if bundle.sizes is None:
            return math.floor(most * bundle.count + 1e-9) * bundle.size
        return max(math.floor(most * bundle.elements + 1e-9) - bundle.size + 1, 0) if most < 1 else bundle.elements

    def asked(self, share: Share) -> int:
        """Return how many weights at least a share prunes; rows round by themselves."""
        if not self.scope.by_row:
            return budget(share.sparsity, self.elements(share.members))
        return sum(
            _rows_of_tiles(bundle)[0] * _groups_in_rows(bundle, share.sparsity) * bundle.size
            for bundle in (self.bundles[index] for index in share.members)
        )

    def pruned(self, share: Share) -> int | None:
        """Return how many groups a share prunes; None where groups are of different sizes."""
        bundles = [self.bundles[index] for index in share.members]
        if not _even(bundles):
            return None
        size = bundles[0].size
        if self.scope.by_row:
            return self.asked(share) // size
        floor = self.scope.bounds(share.sparsity)[0]
        forced = sum(-(-_at_least(floor, bundle.elements) // size) for bundle in bundles)
        return max(-(-budget(share.sparsity, self.elements(share.members)) // size), forced)


def _bounded(contenders: list[Contender], elements: int, floor: float, ceiling: float) -> list[Tensor]:
    """Select with every contender's sparsity between `floor` and `ceiling`.

    What reaches the floor goes first and what lies above the ceiling never: one selection, which equals fixing the
    contenders that would leave the bounds and solving for the rest, and nests like any other.
    """
    if floor <= 0 and ceiling >= 1:
        return select(contenders, elements)
    firsts = [select([contender], _at_least(floor, contender.elements))[0] for contender in contenders]
    forced = sum(c.elements - c.weigh(first, 0) for c, first in zip(contenders, firsts, strict=True))
    if forced >= elements:
        return firsts
    bounded = []
    for contender, first in zip(contenders, firsts, strict=True):
        last = _above(contender, ceiling)
        bounded.append(held(contender, first, last))
    return select(bounded, elements)


def _at_least(floor: float, elements: int) -> int:
    """Return how many elements reach the floor; rounded up, so that all at the floor reach the whole's budget."""
    return math.ceil(floor * elements - 1e-9)


def _above(contender: Contender, ceiling: float) -> Tensor:
    """Return the groups (True) that cannot be pruned without exceeding the ceiling."""
    elements = math.floor(ceiling * contender.elements + 1e-9) - contender.size + 1
    return select([contender], elements)[0]


def _even(bundles: Sequence[Bundle]) -> bool:
    """Whether all groups of all bundles are of one size."""
    return len({bundle.size for bundle in bundles}) == 1 and all(bundle.sizes is None for bundle in bundles)


def _rows_of_tiles(bundle: Bundle) -> tuple[int, int]:
    """Return how many rows of tiles there are, and how many tiles are in each."""
    height, taps, columns = bundle.parts[0].grid
    return height, taps * columns


def _groups_in_rows(bundle: Bundle, sparsity: float) -> int:
    """Return how many groups are pruned in every row of tiles."""
    return -(-budget(sparsity, _rows_of_tiles(bundle)[1] * bundle.size) // max(bundle.size, 1))


def _places(anatomy: Anatomy) -> dict[int, tuple[str, str]]:
    """Return (role, layer) of every tensor in the layers, by id of the parameter."""
    return {
        id(weight.parameter): (role.partition(".")[0], layer.name)
        for layer in anatomy.layers
        for role, weight in layer.roles()
    }


def _entrant(bundle: Bundle, pattern: Pattern, places: dict[int, tuple[str, str]]) -> Entrant:
    role, layer = places.get(id(bundle.parts[0].weight.parameter), ("", ""))
    most = min(pattern.most(), (bundle.count - bundle.least) / bundle.count if bundle.count else 1.0)
    return Entrant(bundle.elements, bundle.perimeter, most, role, layer)
