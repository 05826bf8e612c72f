"""What pushes learned scores down: a penalty of a given strength, or one that a controller steers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import Self

from sparsify.durations import Duration, PositiveDuration
from sparsify.schedules.base import Curve
from sparsify.schedules.cubic import Cubic
from sparsify.schedules.level import NUMBER, Level, NotNegative
from sparsify.schedules.shorthand import is_number, or_shorthand
from sparsify.schedules.window import backwards
from sparsify.spec import Spec, fail_at

Factor = Annotated[float, Field(ge=0, le=1e6)]


class Penalty(Spec):
    """λ times the mean of the gates; a bare number `x` in a recipe stands for `{to: x}`.

    The mean is over the groups of a tensor, then over the tensors of a role, then over the roles named in `roles` (and
    the rest of the tensors); without `roles`, over all tensors.
    """

    from_: NotNegative = Field(default=0.0, alias="from")
    """λ at the beginning."""

    to: NotNegative | None = None
    """λ at the end, and ever after. Left out where `sparsity` is asked for: then λ is steered."""

    curve: Curve = Cubic()
    """The shape between the two."""

    begin: Duration | None = None
    """When it begins to rise; by default with the window of the modifier."""

    end: PositiveDuration | None = None
    """When it is at its end; by default with the window."""

    roles: dict[str, Factor] = Field(default_factory=dict)
    """What λ is multiplied with for `attention`, `ffn`, …; 1 for what is not named."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: Any) -> Any:
        return {"to": data} if is_number(data) else data

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.to is None:
            for key in ("from_", "curve", "begin", "end"):
                if key in self.model_fields_set:
                    raise fail_at(
                        "Penalty", (key.rstrip("_"),), "a penalty that is steered has no `to`, so no ramp", None
                    )
        return self

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        for key, message in backwards(self.begin, self.end):
            raise fail_at("Penalty", (key,), message, None)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_shorthand(schema, handler, NUMBER)

    @property
    def level(self) -> Level | None:
        """λ over time; None where it is steered."""
        return None if self.to is None else Level(from_=self.from_, to=self.to, curve=self.curve)
