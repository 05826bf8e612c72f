"""N:M: at least N weights kept in every M consecutive inputs of a row."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

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
        members = scores.reshape(-1, self.m).t().contiguous()  # [m, groups]: every comparison is one long row
        count = torch.int8 if self.m < 128 else torch.int16
        ahead = torch.arange(self.m, dtype=count, device=scores.device).unsqueeze(1).repeat(1, members.shape[1])
        for low in range(self.m):  # how many of its group come before each weight; a later one wins a tie
            for high in range(low + 1, self.m):
                wins = (members[high] >= members[low]).view(torch.int8)
                ahead[low] += wins
                ahead[high] -= wins
        return members.masked_fill_(ahead < self.n, float("inf")).t().reshape(scores.shape)
