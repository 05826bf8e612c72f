"""The engine's attention in models of transformers, by the interface that they have for other implementations.

It computes what is asked of `sdpa` without a mask, with one of true and false, and causally. Where there is anything
else, such as biases of positions, torch's own is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.engine.attention import attend, fits
from sparsify.linears import run_on
from sparsify.report.latency import timed

NAME, TORCH = "sparsify", "sdpa"
FEWEST_QUERIES = 16
"""A tile has 64: with fewer than these too much of it is empty."""

ROUNDS, SECONDS = 20, 0.3
MOST_CASES = 4
"""That are tried: those with the most products of queries and keys."""

UNREAD = {"cache_position", "encoder_hidden_states", "position_ids"}
"""Tensors that transformers hand to every implementation, and `sdpa` does not look at."""


@dataclass(frozen=True)
class Case:
    """What an attention was asked for: sizes [batch, heads, tokens, width], and which keys a query attends to."""

    of_queries: torch.Size
    of_keys: torch.Size
    causal: bool = False
    mask: Tensor | None = None

    @property
    def products(self) -> int:
        """Return how many scores there are, masked ones too."""
        return self.of_queries[:3].numel() * self.of_keys[2]


_seen: ContextVar[dict[tuple[Any, ...], Case] | None] = ContextVar("seen", default=None)


def choose(model: nn.Module, sample: Any) -> float | None:
    """Return how many times as fast as torch's attention the engine's is, on what a model computes for a sample.

    Sizes and masks are those that it has there. Where there are masks, what counts is the lesser of two: with them, and
    without, for the next batch may have less to skip. None where it has no use for it. The model is as it was.
    """
    if not take(model):
        return None
    cases: dict[tuple[Any, ...], Case] = {}
    token = _seen.set(cases)
    try:
        run_on(model, sample, "the model cannot be run on the sample")
    finally:
        _seen.reset(token)
        give_back(model)
    kinds = [[case for case in cases.values() if (case.mask is None) is plain] for plain in (False, True)]
    return min(
        (_tried(sorted(kind, key=lambda case: case.products)[-MOST_CASES:]) for kind in kinds if kind), default=None
    )


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

    asks = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    causal = attention_mask is None and bool(asks) and query.shape[2] > 1  # as there
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    plain = (
        not dropout and isinstance(scale, float) and scale > 0 and not _more(others) and _grouped(module, query, key)
    )
    if plain and query.shape[2] >= FEWEST_QUERIES and fits(query, key, value, attention_mask):
        if not torch.compiler.is_compiling() and (seen := _seen.get()) is not None:
            _note(seen, Case(query.shape, key.shape, bool(asks)))
            if attention_mask is not None:
                _note(seen, Case(query.shape, key.shape, mask=attention_mask))
        return attend(query, key, value, scale, mask=attention_mask, causal=causal), None
    found: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **others
    )
    return found


def _note(seen: dict[tuple[Any, ...], Case], case: Case) -> None:
    """Keep a case, unless there is one that tells as much."""
    mask = None if case.mask is None else (case.mask.shape, int(case.mask.sum()))
    seen.setdefault((case.of_queries, case.of_keys, case.causal, mask), case)


def _more(others: dict[str, Any]) -> bool:
    """Whether there is something beside queries, keys, values and a mask that could matter."""
    tensors = {name for name, each in others.items() if isinstance(each, Tensor)}
    return bool(tensors - UNREAD) or others.get("softcap") is not None or bool(others.get("output_attentions"))


def _grouped(module: nn.Module, query: Tensor, key: Tensor) -> bool:
    """Whether heads of keys serve as many of queries as the module says."""
    return bool(query.shape[1] == key.shape[1] * int(getattr(module, "num_key_value_groups", 1)))


@torch.inference_mode()
def _tried(cases: list[Case]) -> float:
    """Return the time of torch's attention ÷ that of the engine's, over cases; the shortest of each counts."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    spent = {NAME: 0.0, TORCH: 0.0}
    for case in cases:
        q, k, v = (_drawn(shape, seed) for seed, shape in enumerate((case.of_queries, case.of_keys, case.of_keys)))
        scale = case.of_queries[-1] ** -0.5
        module = SimpleNamespace(num_key_value_groups=q.shape[1] // k.shape[1], is_causal=case.causal)
        calls = {
            NAME: partial(attend, q, k, v, scale, mask=case.mask, causal=case.causal),
            TORCH: partial(sdpa_attention_forward, module, q, k, v, case.mask, scaling=scale),
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
