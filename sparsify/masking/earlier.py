"""What earlier masks pruned: it stays pruned, so it is ranked first."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from sparsify.bits import in_words
from sparsify.masking import pieces
from sparsify.masking.groups import reduced
from sparsify.patterns.bundle import Bundle

Masks = Mapping[str, Tensor]
"""Bool masks (True = keep) in the shapes of their weights, by name; where a name is missing, nothing is pruned."""


class Last:
    """The masks of each bundle that were made last: while they are in force, a new one is compared tile by tile."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Tensor, dict[str, tuple[ReferenceType[Tensor], int]]]] = {}

    def keep(self, bundle: Bundle, tiles: Tensor, masks: Masks) -> None:
        """Remember the masks of a bundle that are exactly those of its tiles."""
        if not bundle.single and not any(mask.is_inference() for mask in masks.values()):
            made = {name: (ref(mask), mask._version) for name, mask in masks.items()}
            self._made[bundle.name] = (tiles, made)

    def forget(self, bundle: Bundle) -> None:
        """Remember nothing of a bundle."""
        self._made.pop(bundle.name, None)

    def revived(self, bundle: Bundle, tiles: Tensor, masks: Masks, before: Masks | None) -> bool:
        """Whether the masks of some tiles keep a weight that was pruned before."""
        both = [(mask, before[name].to(mask.device)) for name, mask in masks.items() if before and name in before]
        last, made = self._made.get(bundle.name, (tiles, {}))
        if all(self._same(made.get(name), (before or {}).get(name)) for name in masks):
            both = [(tiles, last)]
        return any(_exceeds(mask, earlier) for mask, earlier in both)

    @staticmethod
    def _same(made: tuple[ReferenceType[Tensor], int] | None, mask: Tensor | None) -> bool:
        """Whether a mask is the one that was made, and has not been written to."""
        return made is not None and mask is not None and made[0]() is mask and made[1] == mask._version


def _exceeds(mask: Tensor, earlier: Tensor) -> bool:
    """Whether a mask keeps what another does not; eight weights are compared at once where they lie together."""
    if not (in_words(mask) and in_words(earlier)):
        return bool((mask > earlier).any())
    step = pieces.chunk(mask.device) // 16 or 1
    words = (torch.split(each.view(-1).view(torch.int64), step) for each in (mask, earlier))
    return not all(torch.equal(mine | theirs, theirs) for mine, theirs in zip(*words, strict=True))


def without_revived(masks: Masks, before: Masks) -> dict[str, Tensor]:
    """Return masks in which what was pruned before is pruned: a group that is kept keeps its zeros."""
    return {name: mask & before[name].to(mask.device) if name in before else mask for name, mask in masks.items()}


def gone_tiles(bundle: Bundle, before: Masks | None) -> Tensor | None:
    """Return which tiles of a bundle were wholly pruned before (bool, 1-D); None if none was."""
    if not before or not all(part.weight.name in before for part in bundle.parts):
        return None
    if bundle.single:
        (part,) = bundle.parts
        gone = ~part.weight.cube(before[part.weight.name]).flatten()
        return gone if bool(gone.any()) else None
    kept: Tensor | None = None
    for part in bundle.parts:
        cube = part.weight.cube(before[part.weight.name])
        mine = reduced(part, "max", lambda first, stop, cube=cube: cube[first:stop].float()) > 0  # type: ignore[misc]
        kept = mine if kept is None else kept | mine.to(kept.device)
    assert kept is not None
    return None if bool(kept.all()) else ~kept


def pruned_elements(bundle: Bundle, before: Masks | None) -> int:
    """Return how many weights of a bundle were pruned before, in tiles that were wholly pruned."""
    gone = gone_tiles(bundle, before)
    if gone is None:
        return 0
    sizes = bundle.sizes
    return int(gone.sum()) * (bundle.size // bundle.quota) if sizes is None else int(sizes[gone.cpu()].sum())
