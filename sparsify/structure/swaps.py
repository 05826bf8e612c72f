"""Swaps of columns between groups, while they gain anything for N:M.

Columns of a matrix are looked at as rows: [columns, rows], magnitudes. Groups are m neighbours. A column that takes the
place of column c keeps its new group the top n − 1 of c's neighbours, and in each row the larger of itself and the n-th
of them: over all rows that is half of both sums and of their L1 distance. So one `cdist` says what every swap of two
columns would gain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SHAKEN = 2
"""Random swaps of a shake."""

SMALLEST_GAIN = 1e-6
"""Gains below this part of what a group keeps are rounding."""


class Descent:
    """Swaps columns of different groups while that gains anything."""

    def __init__(self, columns: Tensor, n: int, m: int) -> None:
        self.columns = columns.to(torch.float64 if columns.dtype == torch.float64 else torch.float32).contiguous()
        self.n, self.m = n, m
        count = len(columns)
        self.order = torch.arange(count)
        self.sums = self.columns.sum(1)
        """Of each column, by the place where it stands, as all below."""

        self.nth = torch.empty_like(self.columns)
        """The n-th largest of a column's m − 1 neighbours, in each row."""

        self.fixed = torch.empty_like(self.sums)
        """What the top n − 1 of the neighbours are together."""

        self.kept = torch.empty_like(self.sums)
        """What the group of a column keeps."""

        self.after = self.columns.new_empty(count, count)
        """What the group of column c would keep with column x in its place."""

        self._refresh(torch.arange(count, device=columns.device))

    def run(self, deadline: float, now: Callable[[], float]) -> bool:
        """Swap until nothing gains. Returns False where the deadline came before."""
        while now() < deadline:
            pairs = self._gaining()
            if not len(pairs):
                return True
            self._swap(pairs[:, 0], pairs[:, 1])
        return False

    def escape(self, times: int, made: torch.Generator, deadline: float, now: Callable[[], float]) -> bool:
        """Shake some columns and descend again, so many times; what does not gain is taken back."""
        if len(self.columns) < 2 * self.m:
            return True
        total = self._total()
        for _ in range(times):
            before = self._state()
            for _ in range(SHAKEN):
                self._swap(*self._random(made))
            ended = self.run(deadline, now)
            found = self._total()
            if found > total:
                total = found
            else:
                self._restore(before)
            if not ended:
                return False
        return True

    def _total(self) -> float:
        return float(self.kept.double().sum()) / self.m

    def _random(self, made: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a column of each of two groups."""
        groups = torch.randperm(len(self.columns) // self.m, generator=made)[:2]
        places = groups * self.m + torch.randint(self.m, (2,), generator=made)
        one, two = places.to(self.columns.device)
        return one[None], two[None]

    def _gaining(self) -> Tensor:
        """Return swaps, int64 [swaps, 2], of groups that are each other's best partner; the best of all is there."""
        m, count = self.m, len(self.columns)
        gains = self.after + self.after.T
        gains -= self.kept[:, None] + self.kept
        grid = gains.view(count // m, m, count // m, m).transpose(1, 2)
        grid.diagonal().fill_(0)
        best, inside = grid.flatten(2).max(2)
        value, partner = best.max(1)
        mine = torch.arange(len(value), device=value.device)
        least = SMALLEST_GAIN * self.kept.view(-1, m)[:, 0].mean()
        chosen = mine[(partner[partner] == mine) & (mine < partner) & (value > least)]
        other = partner[chosen]
        place = inside[chosen, other]
        return torch.stack([chosen * m + place.div(m, rounding_mode="floor"), other * m + place % m], 1)

    def _swap(self, one: Tensor, two: Tensor) -> None:
        """Let columns change their places; no group may be named twice."""
        new, old = torch.cat([one, two]), torch.cat([two, one])
        self.order[new.cpu()] = self.order[old.cpu()]
        for values in (self.columns, self.sums):
            values[new] = values[old]
        groups = new.div(self.m, rounding_mode="floor")
        self._refresh((groups[:, None] * self.m + torch.arange(self.m, device=new.device)).flatten())

    def _refresh(self, places: Tensor) -> None:
        """Compute anew what depends on the columns at some places, which are whole groups."""
        n, m = self.n, self.m
        groups = self.columns[places].view(len(places) // m, m, self.columns.shape[1])
        ranked = groups.sort(dim=1, descending=True).values
        inside = groups >= ranked[:, n - 1 : n]
        top = ranked[:, : n - 1].sum(1, keepdim=True)
        rest = torch.where(inside, top + ranked[:, n - 1 : n] - groups, top)
        self.nth[places] = torch.where(inside, ranked[:, n : n + 1], ranked[:, n - 1 : n]).flatten(0, 1)
        self.fixed[places] = rest.sum(2).flatten()
        self.kept[places] = ranked[:, :n].sum((1, 2)).repeat_interleave(m)
        everywhere = torch.arange(len(self.columns), device=places.device)
        self.after[places] = self._replaced(places, everywhere)
        if len(places) < len(everywhere):
            self.after[:, places] = self._replaced(everywhere, places)

    def _replaced(self, places: Tensor, columns: Tensor) -> Tensor:
        """Return what the groups of `places` would keep with each of some columns there, [places, columns]."""
        nth = self.nth[places]
        larger = torch.cdist(nth, self.columns[columns], p=1)
        larger += nth.sum(1)[:, None] + self.sums[columns]
        return larger.mul_(0.5).add_(self.fixed[places][:, None])

    def _state(self) -> tuple[Tensor, ...]:
        return tuple(each.clone() for each in self._tensors())

    def _restore(self, state: tuple[Tensor, ...]) -> None:
        for mine, before in zip(self._tensors(), state, strict=True):
            mine.copy_(before)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.order, self.columns, self.sums, self.nth, self.fixed, self.kept, self.after
