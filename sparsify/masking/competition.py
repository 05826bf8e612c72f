"""The product of the axes: bundles, a criterion, a pattern and a scope make masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsify.anatomy import Anatomy
from sparsify.criteria import Criterion
from sparsify.masking.bounds import at_least, select_bounded
from sparsify.masking.contenders import of_groups, of_weights, rows_of
from sparsify.masking.earlier import Last, Masks, gone_tiles, without_revived
from sparsify.masking.groups import Ranking, expand, tile_scores
from sparsify.masking.rows import select_in_rows
from sparsify.masking.scorer import Scorer, check_scores, naming
from sparsify.masking.selection import Contender, budget
from sparsify.patterns import Pattern
from sparsify.patterns.bundle import Bundle
from sparsify.patterns.reduction import Reduction
from sparsify.scopes import Scope
from sparsify.scopes.base import Arena, BundleFacts

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
    facts: tuple[BundleFacts, ...]
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
        facts = tuple(_facts(bundle, pattern, places) for bundle in bundles)
        return cls(tuple(bundles), facts, criterion, pattern, scope)

    @cached_property
    def arenas(self) -> list[Arena]:
        """Who shares a budget."""
        if self.pattern.apart:
            return [[index] for index in range(len(self.facts))]
        return self.scope.arenas(self.facts)

    def shares(self, arena: Arena, sparsity: float) -> list[Share]:
        """Divide the sparsity of an arena; what each bundle keeps is rounded down where the pattern asks for it."""
        found = self._divided(arena, sparsity)
        return found if self.pattern.multiple == 1 else [self._aligned(share) for share in found]

    def _divided(self, arena: Arena, sparsity: float) -> list[Share]:
        return [Share(members, own) for members, own in self.scope.shares(sparsity, arena, self.facts)]

    def _aligned(self, share: Share) -> Share:
        """Return a share of one bundle that keeps a multiple of groups; all of them where nothing is pruned."""
        pruned, bundle = self.pruned(share), self.bundles[share.members[0]]
        if not pruned or len(share.members) > 1:
            return share
        kept = (bundle.count - pruned) // self.pattern.multiple * self.pattern.multiple
        return Share(share.members, 1 - kept / bundle.count)

    def elements(self, members: Arena) -> int:
        """Return the number of weights of some bundles."""
        return sum(self.bundles[index].elements for index in members)

    # ------------------------------------------------------------------ masks

    @torch.no_grad()
    def masks(
        self,
        sparsity: Callable[[Arena], float],
        before: Masks | None = None,
        learned: LearnedScores | None = None,
    ) -> dict[str, Tensor]:
        """Return a bool mask (True = keep, in its own shape) of every tensor, by name.

        `sparsity` is asked for every arena. `learned` are scores by bundle, which are ranked in place of the weights'.
        What is pruned in `before` is ranked first and is pruned in the result; a group of which only some weights were
        pruned is ranked like any other, and where it is kept it keeps these zeros. Raises ScoreError for scores that
        cannot be ranked.
        """
        masks: dict[str, Tensor] = {}
        with naming(self.criterion):
            self._examine(learned)
            for arena in self.arenas:
                for share in self.shares(arena, sparsity(arena)):
                    masks |= self._masks(share, learned, before)
        return masks

    @torch.no_grad()
    def above(
        self, members: Arena, cut: float, floor: float, learned: LearnedScores, before: Masks | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return (kept, passed) of the tiles of some bundles, bool, 1-D.

        Passed are those whose group's learned score lies above `cut`; kept are these, what the pattern guards, and,
        of a bundle with fewer than `floor` of its groups left, the highest that reach it exactly, the later of equals.
        Groups that are wholly pruned in `before` are neither; of others, the caller takes away what was pruned
        (`without_revived`).
        """
        with naming(self.criterion):
            self._examine(learned)
            return [self._above(self.bundles[index], cut, floor, learned, before) for index in members]

    def _above(
        self, bundle: Bundle, cut: float, floor: float, learned: LearnedScores, before: Masks | None
    ) -> tuple[Tensor, Tensor]:
        gone = gone_tiles(bundle, before)
        ranking = None if bundle.single else self._ranking(bundle, learned, gone)
        contender = self._single(bundle, learned, gone) if ranking is None else of_groups(ranking)
        scores = contender.read(0, contender.count, 1)
        check_scores(bundle.name, scores, contender.protected)
        kept = scores > cut
        passed = kept & (scores != torch.inf) if contender.protected else kept
        least = at_least(floor, contender.count)
        if int(torch.count_nonzero(kept)) < least:
            kept = select_in_rows(scores.view(1, -1), contender.count - least).view(-1)
        if gone is not None:
            kept = kept & (~gone if ranking is None else scores != -torch.inf)
        return (kept, passed) if ranking is None else (ranking.tiles(kept), ranking.tiles(passed))

    @torch.no_grad()
    def lock(self) -> dict[str, Tensor]:
        """Return masks that keep every group in which a weight has a positive score."""
        masks: dict[str, Tensor] = {}
        with naming(self.criterion):
            self._examine(None)
            for bundle in self.bundles:
                scores = tile_scores(bundle, self.criterion, "max")
                check_scores(bundle.name, scores)
                masks |= expand(bundle, scores > 0)
        return masks

    @cached_property
    def _examined(self) -> set[str]:
        """The tensors about which the criterion was found to answer as it must."""
        return set()

    def _examine(self, learned: LearnedScores | None) -> None:
        """Examine the criterion once on every tensor. Raises ScoreError."""
        for bundle in self.bundles if learned is None or self.bundles[0].single else ():
            for weight in (part.weight for part in bundle.parts):
                if weight.name not in self._examined:
                    Scorer(weight, self.criterion, None if learned is None else learned[bundle.name]).examine()
                    self._examined.add(weight.name)

    def _masks(self, share: Share, learned: LearnedScores | None, before: Masks | None) -> dict[str, Tensor]:
        """Return the masks of a share's tensors; only where they keep what was pruned, all is selected once more."""
        bundles = [self.bundles[index] for index in share.members]
        choose = self._in_rows if self.scope.by_row else self._together
        chosen = choose(bundles, share, learned, [None] * len(bundles))
        masks = [expand(bundle, tiles) for bundle, tiles in zip(bundles, chosen, strict=True)]
        found = list(zip(bundles, chosen, masks, strict=True))
        if before is None or not any(self._last.revived(*made, before) for made in found):
            for made in found:
                self._last.keep(*made)
        else:
            chosen = choose(bundles, share, learned, [gone_tiles(bundle, before) for bundle in bundles])
            masks = [without_revived(expand(*made), before) for made in zip(bundles, chosen, strict=True)]
            for bundle in bundles:
                self._last.forget(bundle)
        return {name: mask for own in masks for name, mask in own.items()}

    @cached_property
    def _last(self) -> Last:
        return Last()

    def _together(
        self, bundles: Sequence[Bundle], share: Share, learned: LearnedScores | None, gone: Sequence[Tensor | None]
    ) -> list[Tensor]:
        rankings = [
            None if bundle.single else self._ranking(bundle, learned, own)
            for bundle, own in zip(bundles, gone, strict=True)
        ]
        contenders = [
            self._single(bundle, learned, own) if ranking is None else of_groups(ranking)
            for bundle, ranking, own in zip(bundles, rankings, gone, strict=True)
        ]
        elements = budget(share.sparsity, self.elements(share.members))
        chosen = select_bounded(contenders, elements, *self.scope.bounds(share.sparsity))
        return [
            mask if ranking is None else ranking.tiles(mask) for ranking, mask in zip(rankings, chosen, strict=True)
        ]

    def _single(self, bundle: Bundle, learned: LearnedScores | None, gone: Tensor | None) -> Contender:
        scores = None if learned is None else learned[bundle.name]
        return of_weights(bundle, self.criterion, self.pattern, scores, gone)

    def _ranking(self, bundle: Bundle, learned: LearnedScores | None, gone: Tensor | None) -> Ranking:
        return Ranking(bundle, self._tiles(bundle, learned), self._how, gone)

    def _tiles(self, bundle: Bundle, learned: LearnedScores | None) -> Tensor:
        return tile_scores(bundle, self.criterion, self._how) if learned is None else learned[bundle.name]

    @property
    def _how(self) -> Reduction:
        how: Reduction = getattr(self.pattern, "reduce_by", "mean")
        return how

    def _in_rows(
        self, bundles: Sequence[Bundle], share: Share, learned: LearnedScores | None, gone: Sequence[Tensor | None]
    ) -> list[Tensor]:
        masks = []
        for bundle, own in zip(bundles, gone, strict=True):
            _, width = _rows_of_tiles(bundle)
            if bundle.single:
                contender = self._single(bundle, learned, own)
            else:
                contender = of_groups(self._ranking(bundle, learned, own))
            groups = _groups_in_rows(bundle, share.sparsity)
            kept = [select_in_rows(rows, groups) for rows in rows_of(contender, width)]
            masks.append(torch.cat(kept).flatten() if kept else torch.empty(0, dtype=torch.bool))
        return masks

    # ------------------------------------------------------------------ what is known beforehand

    def impossible(self, sparsity: float) -> str | None:
        """Return why the sparsity cannot be reached, or None."""
        if self.pattern.multiple > 1 and (reason := self._unalignable(sparsity)):
            return reason
        for arena in self.arenas:
            elements = self.elements(arena)
            most = sum(self._prunable(index) for index in arena)
            if most < budget(sparsity, elements):
                first = self.bundles[arena[0]].name
                more = f" and {len(arena) - 1} more" if len(arena) > 1 else ""
                return f"{first}{more}: at most {most / elements:.4g} can be pruned, got {sparsity:g}"
        return None

    def _unalignable(self, sparsity: float) -> str | None:
        """Return why what bundles keep cannot be a multiple, or None."""
        multiple = self.pattern.multiple
        for share in (share for arena in self.arenas for share in self._divided(arena, sparsity)):
            bundle, pruned = self.bundles[share.members[0]], self.pruned(share)
            if pruned is None:
                return f"{bundle.name}: its groups differ in size, and cannot be rounded: leave `align` out"
            kept = self._aligned(share)
            if pruned < bundle.count and kept.sparsity == 1:
                left = bundle.count - pruned
                return f"{bundle.name}: {left} of {bundle.count} are kept, fewer than `align: {multiple}`"
            if self._prunable(share.members[0]) < budget(kept.sparsity, bundle.elements):
                return f"{bundle.name}: so few are not allowed that they could be a multiple of `align: {multiple}`"
        return None

    def _prunable(self, index: int) -> int:
        """Return how many weights of a bundle may be pruned."""
        bundle, each = self.bundles[index], self.facts[index]
        most = min(self.scope.bounds(1.0)[1], each.most)
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
        forced = sum(-(-at_least(floor, bundle.elements) // size) for bundle in bundles)
        return max(-(-budget(share.sparsity, self.elements(share.members)) // size), forced)


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


def _facts(bundle: Bundle, pattern: Pattern, places: dict[int, tuple[str, str]]) -> BundleFacts:
    role, layer = places.get(id(bundle.parts[0].weight.parameter), ("", ""))
    most = min(pattern.most(), (bundle.count - bundle.least) / bundle.count if bundle.count else 1.0)
    return BundleFacts(bundle.elements, bundle.perimeter, most, role, layer)
