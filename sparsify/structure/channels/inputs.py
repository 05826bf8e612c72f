"""What a model can be run on: given, or guessed from its configuration or its first layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparsify.errors import PlanError

SIDES = (64, 32, 28, 96, 128, 224, 256, 299)
"""Of images whose size nothing tells, in the order in which they are tried."""

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
    generator = torch.Generator().manual_seed(1)
    config = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    if config is not None and name == "pixel_values":
        yield from _images(config, generator)
    elif config is not None and name == "input_ids":
        most = int(getattr(config, "vocab_size", 2) or 2)
        yield Inputs(named={"input_ids": torch.randint(0, most, (2, 8), generator=generator)})
    first = next((module for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))), None)
    if isinstance(first, nn.Linear):
        yield Inputs((torch.randn(2, first.in_features, generator=generator),))
    elif first is not None:
        spatial = len(first.kernel_size)
        for side in SIDES if spatial < 3 else (16, 32):
            yield Inputs((torch.randn(2, first.in_channels, *[side] * spatial, generator=generator),))


def _images(config: Any, generator: torch.Generator) -> Iterator[Inputs]:
    """Yield images of the configuration's channels: small ones, then its own size."""
    channels = int(getattr(config, "num_channels", 3) or 3)
    own = getattr(config, "image_size", None)
    sides = [(side, side) for side in SIDES]
    if isinstance(own, int):
        sides.insert(min(1, int(own > SIDES[0])), (own, own))
    elif isinstance(own, (list, tuple)) and len(own) == 2:
        sides.insert(0, (int(own[0]), int(own[1])))
    for size in sides:
        yield Inputs(named={"pixel_values": torch.randn(2, channels, *size, generator=generator)})
