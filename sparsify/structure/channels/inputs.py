"""What a model can be run on: given, or guessed from its configuration or its first layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsify.anatomy.samples import samples
from sparsify.errors import PlanError

HOW = "give some: `example_inputs=` of Plan.of and apply, `--input-shape` of `sparsify plan`"


@dataclass(frozen=True)
class Inputs:
    """The arguments of a forward."""

    args: tuple[Any, ...] = ()
    named: Mapping[str, Any] | None = None

    def shapes(self) -> tuple[Any, ...]:
        """Return what tells these inputs from others, hashable."""
        named = sorted((self.named or {}).items())
        return (*(_shape(each) for each in self.args), *((name, _shape(each)) for name, each in named))

    def run(self, model: nn.Module) -> Any:
        """Return what a model makes of them."""
        return model(*self.args, **(self.named or {}))


def _shape(value: Any) -> Any:
    return (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else repr(value)[:200]


def given(value: Any) -> Inputs:
    """Return the inputs that somebody gives: a tensor, a mapping, a tuple of arguments. Raises PlanError for others."""
    if isinstance(value, Tensor):
        return Inputs((_near(value),))
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return Inputs(named={name: _near(each) for name, each in value.items()})
    if isinstance(value, (tuple, list)) and value:
        return Inputs(tuple(_near(each) for each in value))
    kind = type(value).__name__
    raise PlanError(f"example_inputs are a tensor, a tuple of arguments or a mapping of them by name, got a {kind}")


def _near(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().to("cpu", copy=True)
    return value.float() if value.is_floating_point() else value


def guesses(model: nn.Module) -> Iterator[Inputs]:
    """Yield inputs that a model may take, the likeliest first."""
    for args, named in samples(model):
        yield Inputs(args, named)
