"""What a `report.json` says, checked: the parts of it that a report shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparsify.errors import StateError
from sparsify.files import read_json
from sparsify.recipe.problems import problems_of

Steps = Annotated[int, Field(ge=0, le=10**15)]
DRAWABLE = 1e30
"""Values beyond it are left out of curves."""


class _Part(BaseModel):
    """What is read of an object; other keys are none of a report's business."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Metrics(_Part):
    """Metrics before and after gates became binary."""

    at_threshold: dict[str, float]
    after: dict[str, float]


class Found(_Part):
    """What a modifier found out; other keys are for modifiers of plug-ins to check."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    sparsity_at_threshold: float | None = None
    sparsity: float | None = None
    strengths: Annotated[dict[str, float], Field(alias="lambda")] = {}
    metrics: Metrics | None = None
    returned: int | None = None
    pruned: int = 0


class Asked(_Part):
    """What a training was asked for."""

    task: str | None = None
    model: str | None = None
    """The model that it began with."""

    teacher: str | None = None


class Data(_Part):
    """What a training was evaluated on."""

    eval_rows: Annotated[int, Field(ge=0)] | None = None
    eval_sha256: str | None = None


class Training(_Part):
    """What `sparsify train` wrote of its run."""

    steps: Steps
    seconds: float
    metrics: dict[str, float] = {}
    settings: Asked = Asked()
    data: Data = Data()


class Planned(_Part):
    """The length that the plan was made for."""

    total_steps: Annotated[int, Field(ge=1, le=10**15)] | None = None
    steps_per_epoch: Annotated[int, Field(ge=1, le=10**15)] | None = None


class Zeros(_Part):
    """What is zero of the whole model."""

    sparsity: float


class Densities(_Part):
    """What was counted when the training ended."""

    model: Zeros | None = None


class Logged(BaseModel):
    """An entry of the history: a step, and whatever was logged at it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    step: Steps


class Written(_Part):
    """A `report.json`; empty where there is none."""

    training: Training | None = None
    history: list[Logged] = []
    modifiers: dict[str, Found] = {}
    plan: Planned = Planned()
    density: Densities = Densities()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.training.metrics if self.training else {}

    def points(self, key: str) -> Iterator[tuple[int, float]]:
        """Yield (step, value) from the history, of values that can be drawn."""
        for entry in self.history:
            value = (entry.model_extra or {}).get(key)
            if isinstance(value, (int, float)) and abs(value) <= DRAWABLE:  # so no NaN
                yield entry.step, float(value)


def read_written(path: Path) -> Written:
    """Read a `report.json`; an empty one where there is no such file. Raises StateError, with what is wrong where."""
    if not os.path.isfile(path):
        return Written()
    data = read_json(path)
    try:
        return Written.model_validate(data)
    except ValidationError as error:
        first = problems_of(error, None)[0]
        raise StateError(f"{path} is not as reports are written: {first}") from None
