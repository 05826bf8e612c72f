"""The order of the training data: shuffled, in batches of similar length, and a function of seed and epoch alone.

The Trainer's own length-grouped sampler draws from the global generator, so a resumed epoch would see other batches.
Here the dataset itself stands in the order of the epoch, and the Trainer reads it from the first row to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

POOL = 32
"""Batches among which rows are sorted by length."""


def bucketed(lengths: Sequence[int], batch: int, generator: torch.Generator) -> list[int]:
    """Return an order of the rows: shuffled, sorted by length within pools of `POOL` batches, batches shuffled.

    A short batch stays last, so that cutting the order every `batch` rows gives back the batches.
    """
    rows = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for start in range(0, len(rows), POOL * batch):
        pool = sorted(rows[start : start + POOL * batch], key=lambda row: lengths[row])
        batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    full = [part for part in batches if len(part) == batch]
    short = [part for part in batches if len(part) < batch]
    shuffled = [full[i] for i in torch.randperm(len(full), generator=generator).tolist()]
    return [row for part in [*shuffled, *short] for row in part]


class Ordered(torch.utils.data.Dataset[Any]):
    """`data` in the order of the epoch; the Trainer announces epochs by `set_epoch`."""

    def __init__(self, data: Any, batch: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        self.data, self.batch, self.seed = data, batch, seed
        self.lengths = lengths if lengths is not None else [0] * len(data)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Stand in the order of an epoch; tell the data of it, where it differs from epoch to epoch."""
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        self.order = bucketed(self.lengths, self.batch, generator)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.data[self.order[index]]
