"""The engine's attention in models of transformers, by the interface that they have for other implementations.

Where there is a mask, a causal one too, or anything else that the engine does not compute, torch's own is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsify.engine.attention import attend, fits
from sparsify.linears import run_on
from sparsify.report.latency import timed

NAME, TORCH = "sparsify", "sdpa"
FEWEST_QUERIES = 16
"""A tile has 64: with fewer than these too much of it is empty."""

ROUNDS, SECONDS = 20, 0.3
MOST_SHAPES = 4

Shapes = tuple[torch.Size, torch.Size]
"""Of queries and of keys: [batch, heads, tokens, width]."""

_seen: ContextVar[set[Shapes] | None] = ContextVar("seen", default=None)


def choose(model: nn.Module, sample: Any) -> float | None:
    """Return how many times as fast as torch's attention the engine's is, on what a model computes for a sample.

    None where it has no use for it. The model is as it was.
    """
    if not take(model):
        return None
    shapes: set[Shapes] = set()
    token = _seen.set(shapes)
    try:
        run_on(model, sample, "the model cannot be run on the sample")
    finally:
        _seen.reset(token)
        give_back(model)
    return _tried(sorted(shapes)[-MOST_SHAPES:]) if shapes else None


def take(model: nn.Module) -> bool:
    """Let the attention of a model be the engine's; returns whether there is any that can be."""
    configs = list(_configs(model, TORCH, NAME))
    if not configs or not _registered():
        return False
    for config in configs:
        config._attn_implementation_internal = NAME
    return True


def give_back(model: nn.Module) -> None:
    """Let the attention of a model be torch's again, where it was taken."""
    for config in _configs(model, NAME):
        config._attn_implementation_internal = TORCH


def _configs(model: nn.Module, *implementations: str) -> Iterator[Any]:
    """Yield the configurations of a model and its parts that have certain implementations of attention, each once."""
    found = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    for config in found.values():
        if getattr(config, "_attn_implementation_internal", None) in implementations:
            yield config


@cache
def _registered() -> bool:
    """Tell transformers of the engine's attention; False where it is too old to be told."""
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    except ImportError:
        return False
    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return True


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return [batch, tokens, heads, width] for queries, keys and values of [batch, heads, tokens, width]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    plain = attention_mask is None and not dropout and not causal and isinstance(scale, float) and scale > 0
    more = any(isinstance(each, Tensor) for each in others.values()) or others.get("softcap") is not None
    if plain and not more and query.shape[2] >= FEWEST_QUERIES and fits(query, key, value):
        if not torch.compiler.is_compiling() and (seen := _seen.get()) is not None:
            seen.add((query.shape, key.shape))
        return attend(query, key, value, scale), None
    found: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
    )
    return found


@torch.inference_mode()
def _tried(shapes: list[Shapes]) -> float:
    """Return the time of torch's attention ÷ that of the engine's, over shapes; the shortest of each counts."""
    spent = {NAME: 0.0, TORCH: 0.0}
    for of_queries, of_keys in shapes:
        q, k, v = (_drawn(shape, seed) for seed, shape in enumerate((of_queries, of_keys, of_keys)))
        scale = of_queries[-1] ** -0.5
        calls = {
            NAME: partial(attend, q, k, v, scale),
            TORCH: partial(functional.scaled_dot_product_attention, q, k, v, scale=scale),
        }
        times = timed(list(calls.values()), ROUNDS, least=3, seconds=SECONDS, warm_up=1)
        for name, each in zip(calls, times, strict=True):
            spent[name] += min(each)
    return spent[TORCH] / spent[NAME]


def _drawn(shape: torch.Size, seed: int) -> Tensor:
    """Return random numbers [batch, heads, tokens, width] that lie as those of a linear layer do."""
    batch, heads, tokens, width = shape
    made = torch.randn(batch, tokens, heads, width, generator=torch.Generator().manual_seed(seed))
    return made.transpose(1, 2)
