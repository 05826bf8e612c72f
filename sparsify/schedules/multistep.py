"""The multistep curve: a staircase of your own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sparsify.schedules.base import Curve
from sparsify.spec import fail_at

Part = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[tuple[Part, Part], Field(strict=False)]


class Multistep(Curve):
    """Jumps at given moments: `steps` maps parts of the window to parts of the way, as pairs [when, how much].

    `[[0.25, 0.5], [0.5, 0.8]]` goes half of the way after a quarter of the window, 80 % of it after half,
    and the rest at the end. Source: NNCF's multistep scheduler.
    """

    type: Literal["multistep"] = "multistep"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"steps": [[0.25, 0.5], [0.5, 0.8]]},)
    jumps: ClassVar[bool] = False

    steps: Annotated[tuple[Pair, ...], Field(strict=False, min_length=1, max_length=1000)]
    """Pairs [part of the window, part of the way], both rising."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for index, (before, after) in enumerate(zip(self.steps, self.steps[1:], strict=False)):
            if after[0] <= before[0] or after[1] < before[1]:
                raise fail_at(
                    "Multistep", ("steps", index + 1), f"{list(after)} does not rise above {list(before)}", after
                )
        return self

    def fraction(self, progress: float) -> float:
        reached = [part for when, part in self.steps if progress >= when]
        return reached[-1] if reached else 0.0
