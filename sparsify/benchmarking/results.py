"""What a benchmark found, as plain data that can be written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sparsify.benchmarking.flops import Flops
from sparsify.benchmarking.machine import Rate
from sparsify.benchmarking.medians import Ratio, Spread
from sparsify.benchmarking.profile import Profile
from sparsify.errors import BenchmarkError
from sparsify.files import read_json
from sparsify.recipe.problems import problems_of


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Model(_Part):
    """A model as it lies in its folder. Sizes are bytes."""

    name: str
    folder: str
    kind: str
    """Its class."""

    weights: int
    """Weights of linear and convolutional layers."""

    zeros: int
    """Zeros among them."""

    disk: int
    """Of the files with weights."""

    compressed: int
    """Of those, after zstd at `level`."""

    level: int
    memory: int
    """Of parameters and buffers, in float32."""

    metrics: dict[str, float]
    """Those of its last evaluation, if it was trained by `sparsify train`."""

    @property
    def sparsity(self) -> float:
        """The fraction of its linear and convolutional weights that is zero."""
        return self.zeros / self.weights if self.weights else 0.0


class Peak(_Part):
    """Resident memory of a process of its own, in bytes."""

    whole: int
    """The most that the process had."""

    own: int
    """Of that, what came after the libraries were imported: the model, its buffers, what was computed."""


class Timing(_Part):
    """One model on one engine."""

    model: str
    engine: str
    seconds: Spread
    share: float
    """Of the machine's median rate: dense operations of the forward by its median time."""

    speedup: Ratio | None
    """How many times as fast as the model that it is compared with, on the same engine."""

    engine_speedup: Ratio | None
    """How many times as fast as on the first engine."""

    theoretical: float | None
    """How many times as fast it would be if time went by operations, and zeros cost none."""

    why: str
    """Why measured and theoretical differ, or that nothing is to be expected."""

    peak: Peak | None
    profile: Profile | None = None
    """Where its time goes, where that was asked for."""


class Case(_Part):
    """Inputs of one shape, and what they took."""

    batch: int
    length: int | None
    """Tokens of each text; none for images."""

    rounds: int
    rate: Rate
    """What this machine reached with dense matrices in the same rounds."""

    flops: dict[str, Flops]
    """By model."""

    timings: list[Timing]

    @property
    def title(self) -> str:
        """The shape in words."""
        return f"batch {self.batch}" + (f" × {self.length} tokens" if self.length is not None else "")

    def timing(self, model: str, engine: str) -> Timing:
        """Return what one model took on one engine."""
        return next(timing for timing in self.timings if (timing.model, timing.engine) == (model, engine))


class Result(_Part):
    """Everything that one run found."""

    format: Literal[1] = 1
    machine: str
    threads: int
    against: str | None
    """The name of the model that the others are compared with."""

    models: list[Model]
    engines: list[str]
    cases: list[Case]
    notes: list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> Result:
        """Refuse what no run writes: times of models that are not listed, or models without."""
        names = [model.name for model in self.models]
        pairs = sorted((name, engine) for name in names for engine in self.engines)
        if len(set(pairs)) < len(pairs) or not self.engines:
            raise ValueError("`models` and `engines` must be different ones")
        if self.against is not None and self.against not in names:
            raise ValueError(f"`against` is {self.against!r}, which is none of `models`")
        for place, case in enumerate(self.cases):
            if sorted((timing.model, timing.engine) for timing in case.timings) != pairs:
                raise ValueError(f"`cases[{place}].timings` has not one entry for each model on each engine")
            if sorted(case.flops) != sorted(names):
                raise ValueError(f"`cases[{place}].flops` has not one entry for each model")
        return self


def read_result(path: Path) -> Result:
    """Read what `sparsify benchmark --json` printed. Raises BenchmarkError, with what is wrong where."""
    data = read_json(path, BenchmarkError)
    try:
        return Result.model_validate(data)
    except ValidationError as error:
        first = problems_of(error, None)[0]
        raise BenchmarkError(f"{path} is no result of `sparsify benchmark --json`: {first}") from None
