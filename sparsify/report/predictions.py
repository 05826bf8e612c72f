"""What a model predicted of each row of its evaluation, kept beside it so that two models can be compared."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import StatisticsError, correlation
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from sparsify.errors import StateError
from sparsify.files import read_json
from sparsify.recipe.problems import problems_of

FILE = "predictions.json"

Kind = Literal["labels", "numbers", "texts"]


class Predictions(BaseModel):
    """The predictions of one model, in the order of the evaluation data."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    format: Literal[1] = 1
    kind: Kind
    unit: Literal["rows", "words", "questions"] = "rows"
    """What is predicted of: one entry each."""

    sha256: str
    """The hash of the rows (`eval_sha256` of the report)."""

    names: list[str] = []
    """The labels that `predicted` numbers, where the kind is `labels`."""

    predicted: list[int] | list[float] | list[str]
    right: list[Annotated[int, Field(ge=0, le=1)]] = []
    """1 where a label or an answer is right; of numbers there is no such thing, and none."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "labels" and not all(
            isinstance(each, int) and 0 <= each < len(self.names) for each in self.predicted
        ):
            raise ValueError("a prediction is no number of a label")
        if self.kind == "texts" and not all(isinstance(each, str) for each in self.predicted):
            raise ValueError("a prediction is no text")
        if self.kind == "numbers" and any(isinstance(each, str) for each in self.predicted):
            raise ValueError("a prediction is no number")
        if len(self.right) != (0 if self.kind == "numbers" else len(self.predicted)):
            raise ValueError("there are not as many entries in `right` as in `predicted`")
        return self

    def values(self) -> list[Any]:
        """Return what was predicted: names of labels, numbers, or texts without differences of case and spaces."""
        if self.kind == "labels":
            return [self.names[int(each)] for each in self.predicted]
        return [" ".join(each.casefold().split()) if isinstance(each, str) else each for each in self.predicted]


@dataclass(frozen=True)
class Agreement:
    """How far two models agree on the same labels or answers."""

    count: int
    unit: str
    same: int
    """How many have the same prediction."""

    both_right: int
    only_before: int
    only_after: int
    """How many only one of them has right."""

    def by_chance(self) -> float:
        """Return how often so uneven a split, or a more uneven one, of what only one has right comes by chance.

        Two-sided sign test (the exact form of McNemar's, 1947): each of them is as likely to be the right one.
        """
        differing = self.only_before + self.only_after
        fewer = min(self.only_before, self.only_after)
        return min(1.0, 2 * _half_tail(differing, fewer))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**asdict(self), "p_sign_test": self.by_chance()}

    def __str__(self) -> str:
        share = f"the same prediction for {self.same / max(self.count, 1):.1%} of {self.count:,} {self.unit}"
        split = f"both right on {self.both_right:,}, only A on {self.only_before:,}, only B on {self.only_after:,}"
        return f"{share}; {split} (sign test: p = {self.by_chance():.2g})"


@dataclass(frozen=True)
class Distance:
    """How far the numbers of two regressions lie apart."""

    count: int
    mean: float
    """Mean absolute difference."""

    pearson: float | None
    """Their correlation; None where a side is constant."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        pearson = "" if self.pearson is None else f", Pearson's correlation {self.pearson:.4f}"
        return f"predictions for {self.count:,} rows differ by {self.mean:.4g} on average{pearson}"


def compare(before: Predictions, after: Predictions) -> Agreement | Distance:
    """Return how far two models agree. Raises StateError where they were not asked the same of the same rows."""
    first, second = before.values(), after.values()
    if (before.kind, before.unit, before.sha256, len(first)) != (after.kind, after.unit, after.sha256, len(second)):
        raise StateError("they were not evaluated on the same rows")
    if before.kind == "numbers":
        apart = [abs(a - b) for a, b in zip(first, second, strict=True)]
        return Distance(len(first), math.fsum(apart) / max(len(apart), 1), _pearson(first, second))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    sides = Counter(zip(before.right, after.right, strict=True))
    return Agreement(len(first), before.unit, same, sides[1, 1], sides[1, 0], sides[0, 1])


def read_predictions(path: Path) -> Predictions | None:
    """Read a `predictions.json`; None where there is none. Raises StateError, with what is wrong where."""
    if not os.path.isfile(path):
        return None
    try:
        return Predictions.model_validate(read_json(path))
    except ValidationError as error:
        raise StateError(f"{path} is not as predictions are written: {problems_of(error, None)[0]}") from None


def _half_tail(count: int, fewer: int) -> float:
    """Return the chance that of `count` throws of a coin at most `fewer` show heads."""
    log = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(fewer + 1)]
    return math.fsum(math.exp(each - count * math.log(2)) for each in log)


def _pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    try:
        return correlation(first, second)
    except StatisticsError:
        return None
