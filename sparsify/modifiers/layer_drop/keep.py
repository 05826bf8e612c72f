"""Which layers of a stack stay: by their numbers, by how many and a rule, or by what is measured on data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import Self

from sparsify.schedules.shorthand import or_shorthand
from sparsify.selectors import LAYERS, Layers, layer_indices
from sparsify.spec import Spec, fail_at, integral

MEASURED = ("block-influence", "angular")


class Keep(Spec):
    """The layers that stay. Bare numbers of layers (`[0, 2, 4-6]`) stand for `{layers: …}`."""

    layers: Layers | None = None
    """Their numbers, counted from 0: `3`, `0-5`, or a list."""

    count: Annotated[int, Field(ge=1, le=10_000), integral] | None = None
    """How many stay, instead of their numbers."""

    rule: Literal["every-other", "first", "last", "both-ends", "block-influence", "angular"] = "every-other"
    """Which: `every-other` spreads them evenly, with the first and the last among them; `both-ends` takes half of them
    from each end. `block-influence` removes the layers that turn hidden states least, `angular` the run of layers in a
    row over which hidden states turn least; both are measured on `data` before the training."""

    data: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] = "calibration"
    """The binding that holds the data to measure on: batches, given to `apply(calibration=…)` or `--calibration`."""

    tokens: Literal["all", "last"] | None = None
    """Of which tokens hidden states are compared, padding left out. By default `all` for `block-influence`, and `last`
    for `angular`, as published for decoders; for encoders, `all` says more."""

    @model_validator(mode="before")
    @classmethod
    def _from_layers(cls, data: Any) -> Any:
        return data if isinstance(data, (dict, cls)) else {"layers": data}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if (self.layers is None) == (self.count is None):
            message = "give either the numbers of the `layers` that stay, or their `count` with a `rule`"
            raise fail_at("Keep", (), message, None)
        written = self.model_fields_set
        if self.layers is not None:
            if extra := written & {"rule", "data", "tokens"}:
                key = sorted(extra)[0]
                raise fail_at("Keep", (key,), f"`{key}` goes with `count`, not with `layers`", getattr(self, key))
            if len(layer_indices(self.layers)) < sum(len(layer_indices((text,))) for text in self.layers):
                raise fail_at("Keep", ("layers",), "a layer is named twice", None)
        elif self.rule not in MEASURED and (extra := written & {"data", "tokens"}):
            key = sorted(extra)[0]
            message = f"`{key}` goes with a rule that measures ({' or '.join(MEASURED)}), not with {self.rule}"
            raise fail_at("Keep", (key,), message, getattr(self, key))
        return self

    @property
    def measured(self) -> bool:
        """Whether data decide."""
        return self.count is not None and self.rule in MEASURED

    @property
    def compared(self) -> Literal["all", "last"]:
        """The tokens whose hidden states are compared."""
        return self.tokens or ("last" if self.rule == "angular" else "all")

    def label(self) -> str:
        """Return it in a few words."""
        if self.layers is not None:
            return ", ".join(self.layers)
        assert self.count is not None
        return f"{self.count} by {self.rule}"

    def numbers(self, layers: int) -> tuple[int, ...]:
        """Return the layers that stay of so many, where no data decide; beyond the last one where the recipe says so.

        Evenly spread means round(i · (layers − 1) / (count − 1)): 0, 2, 4, 7, 9, 11 for 6 of 12.
        """
        if self.layers is not None:
            return tuple(sorted(layer_indices(self.layers)))
        assert self.count is not None
        if self.rule == "first":
            return tuple(range(self.count))
        if self.rule == "last":
            return tuple(range(layers - self.count, layers))
        if self.rule == "both-ends":
            end = self.count // 2
            return (*range(self.count - end), *range(layers - end, layers))
        return tuple(round(place * (layers - 1) / max(self.count - 1, 1)) for place in range(self.count))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return or_shorthand(schema, handler, LAYERS)


def least_influence(scores: list[float], count: int, fixed: set[int]) -> tuple[int, ...]:
    """Return the `count` layers that stay when those of the least influence go; of equal ones the first goes."""
    order = sorted((index for index in range(len(scores)) if index not in fixed), key=lambda index: scores[index])
    gone = set(order[: len(scores) - count])
    return tuple(index for index in range(len(scores)) if index not in gone)


def least_turning(distances: list[float], layers: int, block: int, fixed: set[int]) -> tuple[int, ...]:
    """Return the layers that stay when the block of layers in a row goes over which hidden states turn least.

    `distances` are those of the blocks by their first layer; of equal ones the first goes. Empty where every block has
    a layer that must stay.
    """
    possible = [first for first in range(len(distances)) if not fixed & set(range(first, first + block))]
    if not possible:
        return ()
    first = min(possible, key=lambda place: distances[place])
    return tuple(index for index in range(layers) if not first <= index < first + block)
