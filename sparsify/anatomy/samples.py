"""Inputs on which a model that nobody has described can be run once: made of its configuration and its modules."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparsify.layers import TABLES, layouts, weights

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and named arguments."""

BATCH, TOKENS = 2, 8
SIDES = (64, 32, 28, 96, 128, 224, 256, 299)
"""Of images whose size nothing tells, in the order in which they are tried."""


def samples(model: nn.Module) -> Iterator[Call]:
    """Yield calls that a model may take, the likeliest first: a batch of two, float32 or int64, on the CPU.

    They are always the same; the global generator is left alone.
    """
    made = torch.Generator().manual_seed(1)
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        yield from _of_transformers(model, config, made)
    count = len(needed(model))
    for args, named in of_modules(model, made):
        yield args, named
        if count > 1:  # two towers, or a source and a target: what the first part takes may be what the others take
            yield (*args, *(_another(args[0], made) for _ in range(count - 1))), named


def needed(module: nn.Module) -> list[str]:
    """Return the names of the arguments without which a module cannot be called."""
    return [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]


def _another(value: Tensor, made: torch.Generator) -> Tensor:
    """Return other random numbers of the same form; whole numbers as they are."""
    return torch.randn(value.shape, generator=made) if value.is_floating_point() else value.clone()


def _of_transformers(model: nn.Module, config: Any, made: torch.Generator) -> Iterator[Call]:
    """Yield calls by the names of the arguments that models of transformers share."""
    names = inspect.signature(model.forward).parameters
    main = str(getattr(model, "main_input_name", ""))
    for size in _sizes(config) if "pixel_values" in names else [(0, 0)]:
        known = {name: value for name in names if (value := _argument(name, config, size, made)) is not None}
        if "use_cache" in names:
            known["use_cache"] = False
        yield (), known
        if main in known and len(known) > 1:
            yield (), {name: value for name, value in known.items() if name in (main, "decoder_input_ids", "use_cache")}
        if "pixel_values" in known and "input_ids" in known:
            yield (), {name: value for name, value in known.items() if name != "pixel_values"}


def _argument(name: str, config: Any, size: tuple[int, int], made: torch.Generator) -> Any:
    """Return a value for an argument of this name, or None where it is to be left out."""
    if name in ("input_ids", "decoder_input_ids"):
        return _tokens(config)
    if name == "pixel_values":
        return torch.randn(BATCH, _number(config, "num_channels") or 3, *size, generator=made)
    if name == "input_values":
        return torch.randn(BATCH, 3200, generator=made)
    if name == "input_features":
        frames = 2 * (_number(config, "max_source_positions") or 50)
        return torch.randn(BATCH, _number(config, "num_mel_bins", "feature_size") or 80, frames, generator=made)
    if name == "encoder_hidden_states" and getattr(config, "add_cross_attention", False):
        width = _number(config, "cross_attention_hidden_size", "hidden_size") or getattr(config, "hidden_size", 0)
        return torch.randn(BATCH, TOKENS, width, generator=made)
    if name == "bbox":
        return torch.zeros(BATCH, TOKENS, 4, dtype=torch.int64)
    return None


def _sizes(config: Any) -> list[tuple[int, int]]:
    """Return sizes of images: small ones, and the configuration's own, which is first where it is small."""
    sizes = [(side, side) for side in SIDES]
    own = next((value for name, value in _flat(config) if name == "image_size"), None)
    if isinstance(own, int):
        sizes.insert(min(1, int(own > SIDES[0])), (own, own))
    elif isinstance(own, list | tuple) and len(own) == 2:
        sizes.insert(0, (int(own[0]), int(own[1])))
    return sizes


def _tokens(config: Any) -> Tensor:
    """Return token numbers that no configuration gives a meaning (of images, padding, …), as far as there are any."""
    size = _number(config, "vocab_size") or 32
    special = [value for name, value in _flat(config) if name.endswith(("_token_id", "_token_index"))]
    plain = [token for token in range(min(size, 64)) if token not in special] or [0]
    return torch.tensor([plain[place % len(plain)] for place in range(BATCH * TOKENS)]).view(BATCH, TOKENS)


def _flat(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of a configuration and of those in it."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from _flat(value)
        else:
            yield name, value


def _number(config: Any, *names: str) -> int:
    """Return a whole number of a configuration, or of one in it; the first of a list; 0 where there is none."""
    for found, value in _flat(config):
        if found in names:
            first = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(first, int) and first > 0:
                return first
    return 0


def of_modules(model: nn.Module, made: torch.Generator | None = None, sides: Sequence[int] = SIDES) -> Iterator[Call]:
    """Yield calls by what the first module that has weights takes; `sides` are those of images."""
    made = made or torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, TABLES):
            yield (torch.zeros(BATCH, TOKENS, dtype=torch.int64),), {}
            return
        if isinstance(module, _ConvNd):
            spatial = len(module.kernel_size)
            for side in sides if spatial < 3 else (16, 32):
                yield (torch.randn(BATCH, module.in_channels, *[side] * spatial, generator=made),), {}
            return
        if set(layouts(module)) == {"weight"} and (weight := next(weights("", module), None)):
            yield (torch.randn(BATCH, TOKENS, weight.geometry.columns, generator=made),), {}
            yield (torch.randn(BATCH, weight.geometry.columns, generator=made),), {}
            return
