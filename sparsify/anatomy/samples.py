"""Inputs on which a model that nobody has described can be run once: made of its configuration and its modules."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and named arguments."""

TOKENS = 8
SIDES = (64, 32, 224)


def samples(model: nn.Module) -> Iterator[Call]:
    """Yield calls that a model may take, the likeliest first; float32, int64, a batch of one, on the CPU."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        yield from _of_transformers(model, config)
    yield from of_modules(model)


def _of_transformers(model: nn.Module, config: Any) -> Iterator[Call]:
    """Yield calls by the names of the arguments that models of transformers share."""
    names = inspect.signature(model.forward).parameters
    sides = [side] if (side := _number(config, "image_size")) else [*SIDES]
    for side in sides:
        known = {name: make for name in names if (make := _argument(name, config, side)) is not None}
        if "use_cache" in names:
            known["use_cache"] = False
        yield (), known
        main = str(getattr(model, "main_input_name", ""))
        if main in known and len(known) > 1:
            yield (), {name: value for name, value in known.items() if name in (main, "decoder_input_ids", "use_cache")}
        if "pixel_values" in known and "input_ids" in known:
            yield (), {name: value for name, value in known.items() if name != "pixel_values"}


def _argument(name: str, config: Any, side: int) -> Any:
    """Return a value for an argument of this name, or None where it is to be left out."""
    if name in ("input_ids", "decoder_input_ids"):
        return _tokens(config)
    if name == "pixel_values":
        return torch.randn(1, _number(config, "num_channels") or 3, side, side)
    if name == "input_values":
        return torch.randn(1, 3200)
    if name == "input_features":
        frames = 2 * (_number(config, "max_source_positions") or 50)
        return torch.randn(1, _number(config, "num_mel_bins", "feature_size") or 80, frames)
    if name == "bbox":
        return torch.zeros(1, TOKENS, 4, dtype=torch.int64)
    return None


def _tokens(config: Any) -> Tensor:
    """Return token numbers that no configuration gives a meaning (of images, padding, …), as far as there are any."""
    size = _number(config, "vocab_size") or 32
    special = [value for name, value in _flat(config) if name.endswith(("_token_id", "_token_index"))]
    plain = [token for token in range(min(size, 64)) if token not in special] or [0]
    return torch.tensor([[plain[place % len(plain)] for place in range(TOKENS)]])


def _flat(config: Any) -> Iterator[tuple[str, Any]]:
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


def of_modules(model: nn.Module) -> Iterator[Call]:
    """Yield calls by what the first module that has weights takes."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield (torch.zeros(1, TOKENS, dtype=torch.int64),), {}
            return
        if isinstance(module, nn.Linear):
            yield (torch.randn(1, TOKENS, module.in_features),), {}
            yield (torch.randn(2, module.in_features),), {}
            return
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            for side in SIDES if not isinstance(module, nn.Conv3d) else (16,):
                yield (torch.randn(1, module.in_channels, *[side] * len(module.kernel_size)),), {}
            return
