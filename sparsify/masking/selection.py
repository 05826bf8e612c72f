"""Exact selection by counting: the one place where it is decided which groups are pruned.

Groups are ordered by (score, index) ascending and the shortest prefix whose elements reach the budget
is pruned. Nothing is sorted as a whole: a sample brackets the threshold, and one pass prunes what lies
below the bracket, keeps what lies above, and collects the little that lies inside to be ranked. A wrong
bracket, or a crowd of equal scores, costs a few more passes, never exactness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from sparsify.bits import count, in_words, key, unkey
from sparsify.errors import ScoreError
from sparsify.masking import pieces
from sparsify.masking.scorer import check_scores


@dataclass(frozen=True)
class Contender:
    """The groups of one bundle: `count` scores, each standing for `size` elements, or `sizes` of its own.

    `read(start, stop, step)` returns the scores of groups start, start + step, … < stop as a 1-D tensor
    of dtype `dtype` (with step > 1 it may return neighbours instead: only samples are read so).
    `protected` says that infinite scores are legal and mean: never pruned (+), pruned first (−); whoever reads has
    checked the others.
    """

    name: str
    count: int
    size: int
    dtype: torch.dtype
    device: torch.device
    read: Callable[[int, int, int], Tensor]
    protected: bool = False
    sizes: Tensor | None = None
    """Elements of every group, int64, on the CPU, where they differ; `size` is then the largest."""

    @classmethod
    def of(
        cls, name: str, scores: Tensor, size: int = 1, *, sizes: Tensor | None = None, protected: bool = False
    ) -> Contender:
        """Return a contender that reads from a tensor of group scores, in its row-major order."""
        flat = scores.reshape(-1)

        def read(start: int, stop: int, step: int) -> Tensor:
            return flat[start:stop:step]

        return cls(name, flat.numel(), size, flat.dtype, flat.device, read, protected, sizes)

    @property
    def elements(self) -> int:
        """The number of elements."""
        return self.count * self.size if self.sizes is None else int(self.sizes.sum())

    def weigh(self, chosen: Tensor, start: int) -> int:
        """Return how many elements the chosen of the groups from `start` on (bool, 1-D) have."""
        if self.sizes is None:
            return self.size * count(chosen)
        return int(self.sizes[start : start + chosen.numel()][chosen.to("cpu")].sum())

    def each(self, places: Tensor) -> Tensor:
        """Return the number of elements of the groups at `places`, int64, on the CPU."""
        return torch.full((places.numel(),), self.size) if self.sizes is None else self.sizes[places.to("cpu")]

    @property
    def chunk(self) -> int:
        """How many scores are held at a time."""
        return pieces.chunk(self.device)

    def chunks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Yield (start, scores) over all groups, as `dtype`."""
        for start in range(0, self.count, self.chunk):
            yield start, self.read(start, min(start + self.chunk, self.count), 1).to(dtype)


def budget(sparsity: float, elements: int) -> int:
    """Return how many of `elements` are pruned at `sparsity`: rounded half to even."""
    return round(sparsity * elements)


def select(contenders: Sequence[Contender], elements: int) -> list[Tensor]:
    """Prune the lowest groups of an arena until at least `elements` elements are gone.

    Returns one bool mask (True = keep) a contender, of length `count`, on its device. Overshoot is less
    than one group; masks nest as `elements` rises. Raises ScoreError for NaN or infinite scores.
    """
    masks = [torch.ones(c.count, dtype=torch.bool, device=c.device) for c in contenders]
    if elements <= 0:
        return masks
    if elements >= sum(c.elements for c in contenders):
        return [mask.zero_() for mask in masks]
    if len(contenders) > 1 and _joinable(contenders):
        (mask,) = select([_joined(contenders)], elements)
        return list(torch.split(mask, [c.count for c in contenders]))
    arena = _Arena(contenders, elements, reduce(torch.promote_types, (c.dtype for c in contenders)))
    low, high = _bracket(arena)
    if not _sweep(arena, masks, low, high):  # a miss, or a crowd of equal scores around the threshold
        _search(arena, masks, low if math.isfinite(low) else high)
    return masks


def _joinable(contenders: Sequence[Contender]) -> bool:
    """Whether there are few groups, alike enough to be one contender's: one pass is then faster than one for each."""
    kinds = {(c.size, c.dtype, c.device) for c in contenders}
    plain = not any(c.protected or c.sizes is not None for c in contenders)
    return plain and len(kinds) == 1 and sum(c.count for c in contenders) <= pieces.SMALL


def _joined(contenders: Sequence[Contender]) -> Contender:
    """Return the groups of several tensors as those of one. Raises ScoreError that names the tensor."""
    parts = [c.read(0, c.count, 1) for c in contenders]
    scores = torch.cat(parts)
    if not bool(scores.isfinite().all()):
        for contender, part in zip(contenders, parts, strict=True):
            check_scores(contender.name, part)
    return Contender.of("", scores, contenders[0].size)


@dataclass(frozen=True)
class _Arena:
    contenders: Sequence[Contender]
    elements: int
    dtype: torch.dtype


def _sweep(arena: _Arena, masks: list[Tensor], low: float, high: float) -> bool:
    """Settle everything in one pass if the threshold lies in (low, high] and few scores do; else say no.

    What is up to `low` is pruned and what is above `high` kept at once; positions and scores of the rest
    are collected, ranked, and the lowest of them pruned. (The interval is open below because a model that
    is sparse already has a crowd of zeros there.)
    """
    room = max(4 * pieces.SMALL, sum(c.count for c in arena.contenders) // 24)
    below = gathered = 0
    near: list[tuple[int, Tensor, Tensor]] = []
    for owner, (contender, mask) in enumerate(zip(arena.contenders, masks, strict=True)):
        inside = torch.empty(min(contender.chunk, contender.count), dtype=torch.bool, device=contender.device)
        for start, scores in contender.chunks(arena.dtype):
            if not contender.protected:
                check_scores(contender.name, scores)
            part = mask[start : start + scores.numel()]
            torch.gt(scores, low, out=part)
            if contender.sizes is None:
                below += contender.size * (part.numel() - count(part))
            else:
                below += contender.weigh(~part, start)
            if gathered <= room:
                place = inside[: part.numel()]
                places = _places(torch.le(scores, high, out=place).logical_and_(part))
                gathered += places.numel()
                near.append((owner, places + start, scores[places]))
    if gathered > room or below >= arena.elements:
        return False
    return _rank(arena, masks, near, arena.elements - below)


def _places(mask: Tensor) -> Tensor:
    """Return the indices of the True elements; eight at a time where few are True."""
    if mask.device.type != "cpu" or not in_words(mask):
        return mask.nonzero().squeeze(1)
    words = mask.view(torch.int64)
    some = words.nonzero().squeeze(1)
    inner = words[some].view(torch.bool).nonzero().squeeze(1)
    return some.mul_(8).take(inner >> 3).add_(inner.bitwise_and_(7))


def _rank(arena: _Arena, masks: list[Tensor], near: list[tuple[int, Tensor, Tensor]], left: int) -> bool:
    """Prune the first of the collected groups, by (score, index), that reach `left` elements."""
    if not near:
        return False
    scores = torch.cat([values.to("cpu") for _, _, values in near])
    uniform = {c.size for c in arena.contenders} if all(c.sizes is None for c in arena.contenders) else set()
    if len(uniform) == 1:
        (size,) = uniform
        if scores.numel() * size < left:
            return False
        threshold = scores.kthvalue(-(-left // size)).values
    else:
        each = torch.cat([arena.contenders[owner].each(places) for owner, places, _ in near])
        if int(each.sum()) < left:
            return False
        ordered, order = scores.sort(stable=True)
        threshold = ordered[int(torch.searchsorted(each[order].cumsum(0), left))]
    lower = [(owner, places, places[values < threshold.to(values.device)]) for owner, places, values in near]
    left -= sum(int(arena.contenders[owner].each(below).sum()) for owner, _, below in lower)
    for (owner, places, below), (_, _, values) in zip(lower, near, strict=True):
        ties = places[values == threshold.to(values.device)]
        pruned = _prefix(arena.contenders[owner], ties, left)
        left -= int(arena.contenders[owner].each(ties[:pruned]).sum())
        masks[owner][below] = False
        masks[owner][ties[:pruned]] = False
    return True


def _prefix(contender: Contender, places: Tensor, left: int) -> int:
    """Return how many of the groups at `places`, in order, reach `left` elements; all if they do not."""
    if left <= 0:
        return 0
    if contender.sizes is None:
        return min(places.numel(), -(-left // contender.size))
    reach = contender.each(places).cumsum(0)
    return min(places.numel(), int(torch.searchsorted(reach, left)) + 1)


def _search(arena: _Arena, masks: list[Tensor], guess: float) -> None:
    """Halve the interval of representable scores until a sweep succeeds or the threshold itself is hit."""
    protected = any(contender.protected for contender in arena.contenders)
    if protected and _count(arena, -math.inf)[1] >= arena.elements:  # more goes first than is asked for
        return _write(arena, masks, -math.inf, arena.elements)
    low, high = key(-math.inf, arena.dtype), key(math.inf, arena.dtype)  # the threshold is in (low, high]
    middle = key(guess, arena.dtype)
    while low < high:
        threshold = unkey(middle, arena.dtype)
        below, ties = _count(arena, threshold)
        if below < arena.elements <= below + ties:
            return _write(arena, masks, threshold, arena.elements - below)
        if below >= arena.elements:
            high = middle - 1
        else:
            low = middle
        if _sweep(arena, masks, unkey(low, arena.dtype), unkey(high, arena.dtype)):
            return None
        middle = (low + high + 1) // 2
    names = ", ".join(contender.name for contender in arena.contenders[:3])
    raise ScoreError(f"{names}: the scores changed between two readings; they must stay the same")


def _count(arena: _Arena, score: float) -> tuple[int, int]:
    """Return the number of elements whose score is below, and equal to, `score`."""
    below = ties = 0
    for contender in arena.contenders:
        for start, scores in contender.chunks(arena.dtype):
            below += contender.weigh(scores < score, start)
            ties += contender.weigh(scores == score, start)
    return below, ties


def _write(arena: _Arena, masks: list[Tensor], threshold: float, left: int) -> None:
    """Keep what is above `threshold`; of what equals it, prune the first until `left` elements are gone."""
    for mask, contender in zip(masks, arena.contenders, strict=True):
        for start, scores in contender.chunks(arena.dtype):
            part = mask[start : start + scores.numel()]
            if left <= 0:
                torch.ge(scores, threshold, out=part)
                continue
            torch.gt(scores, threshold, out=part)
            ties = _places(scores == threshold)
            pruned = _prefix(contender, ties + start, left)
            left -= int(contender.each(ties[:pruned] + start).sum())
            part[ties[pruned:]] = True


def _bracket(arena: _Arena) -> tuple[float, float]:
    """Return scores that probably lie below and above the threshold, judged by a sample."""
    total = sum(c.count for c in arena.contenders)
    if total <= pieces.SMALL:
        return -math.inf, math.inf
    step = _odd(max(total // max(pieces.SAMPLE, round(2 * total ** (2 / 3))), 1))
    contenders = [c for c in arena.contenders if c.count]
    samples = [c.read(0, c.count, step).to("cpu", arena.dtype) for c in contenders]
    sample = torch.cat(samples)
    everything = sum(c.elements for c in contenders)
    spread = 3 * 0.5 / math.sqrt(sample.numel())  # three standard deviations of a quantile
    quantiles = [arena.elements / everything - spread, arena.elements / everything + spread]
    if len({c.size for c in contenders}) == 1 and all(c.sizes is None for c in contenders):
        low, high = (math.floor(quantile * sample.numel()) for quantile in quantiles)
    else:
        counts = torch.tensor([part.numel() for part in samples])
        weights = torch.tensor([c.elements for c in contenders]).double() / counts
        sample, order = sample.sort()
        reach = weights.repeat_interleave(counts)[order].cumsum(0)
        low, high = torch.searchsorted(reach, torch.tensor(quantiles).double() * everything).tolist()
    return (
        -math.inf if low <= 0 else float(sample.kthvalue(low).values),
        math.inf if high >= sample.numel() - 1 else float(sample.kthvalue(high + 1).values),
    )


def _odd(step: int) -> int:
    """A step that shares no factor with the usual widths, so that a sample does not follow a column."""
    return step + 1 if step > 1 and step % 2 == 0 else step
