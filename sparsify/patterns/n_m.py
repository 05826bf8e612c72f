"""N:M: at least N weights kept in every M consecutive inputs of a row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from sparsify.bits import bits, key
from sparsify.layers import Weight
from sparsify.patterns.base import Pattern
from sparsify.spec import fail_at, full_match, integral

Count = Annotated[int, Field(ge=1, le=999), integral]
Size = Annotated[int, Field(ge=2, le=999), integral]


class NM(Pattern):
    """`n` weights are **kept** of every `m` along the input features, at each tap of a kernel; `2:4` for short.

    Below the final sparsity 1 − n/m the top n of every m are protected and the others compete; at
    1 − n/m every m have exactly n left. Source: Mishra et al., "Accelerating Sparse Deep Neural
    Networks" (2021); N is what is kept, as NVIDIA and torch count.
    """

    type: Literal["n:m"] = "n:m"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"n": 2, "m": 4}, {"n": 1, "m": 4}, {"n": 5, "m": 8})
    text_pattern: ClassVar[str | None] = r"^[1-9][0-9]{0,2}:[1-9][0-9]{0,2}$"

    n: Count
    """Weights kept of every m."""

    m: Size
    """Consecutive input features in a group."""

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        if full_match(cls.text_pattern or "", text) is None:
            return super().from_text(text)
        kept, of = text.split(":")
        return {"type": "n:m", "n": int(kept), "m": int(of)}

    @model_validator(mode="after")
    def _keeps_fewer(self) -> Self:
        if self.n >= self.m:
            raise fail_at("NM", ("n",), f"{self.n}:{self.m} keeps everything; n must be less than m", self.n)
        return self

    def label(self) -> str:
        return f"{self.n}:{self.m}"

    def most(self) -> float:
        return 1 - self.n / self.m

    def problem(self, weight: Weight) -> str | None:
        columns = weight.geometry.columns
        return None if columns % self.m == 0 else f"{self.n}:{self.m} does not divide {columns} input features"

    def period(self) -> int:
        return self.m

    def guard(self, scores: Tensor) -> Tensor:
        groups = scores.reshape(-1, self.m)
        if self.m not in _WORDS:
            order = groups.sort(dim=1, stable=True).indices
            return groups.scatter(1, order[:, self.m - self.n :], math.inf)
        kept = _losses(groups) < self.n
        bits(groups).mul_(~kept).add_(kept, alpha=key(math.inf, groups.dtype))
        return groups


_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Groups of so many bytes are added as one number."""


def _losses(groups: Tensor) -> Tensor:
    """Return, for scores [k, m], in how many pairs of its group each is the lower one (int8; a later one wins a tie).

    Neighbours at every distance are compared in long rows. The answers are bytes, a group's a word, in which byte i
    says whether i loses to i + distance (of the last, what has no such neighbour is cut off); what i does not lose, the
    other does. Bytes end between 0 and m − 1, so that whole words can be added and subtracted.
    """
    width = groups.shape[1]
    flat, word = groups.reshape(-1), _WORDS[width]
    low = torch.empty(flat.numel(), dtype=torch.bool, device=flat.device)
    total = torch.full((len(groups),), _bytes(range(width)), dtype=word, device=flat.device)
    for distance in range(1, width):
        torch.le(flat[:-distance], flat[distance:], out=low[:-distance])
        loses = low.view(word).bitwise_and_(_bytes([1] * (width - distance)))
        total.add_(loses, alpha=1 - (1 << 8 * distance))
    return total.view(torch.int8).view(groups.shape)


def _bytes(values: Iterable[int]) -> int:
    """Return the number whose bytes, from the lowest, are `values`."""
    return sum(value << 8 * place for place, value in enumerate(values))
