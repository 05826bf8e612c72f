"""Which positions count: the same as in the task loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify.layers.adapters import base_of

IGNORED = -100


def next_token(model: nn.Module) -> bool:
    """Whether labels belong to the next position: a causal language model of transformers."""
    model = base_of(model)
    kind, name = getattr(model, "loss_type", None), type(model).__name__
    return kind == "ForCausalLM" or name.endswith(("ForCausalLM", "LMHeadModel"))


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether labels are what a decoder reads: an encoder-decoder of transformers."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def labelled(labels: Any, shape: torch.Size, *, shifted: bool) -> Tensor | None:
    """Return where `[batch]` or `[batch, positions]` has a label that counts, as bool; None without such labels."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != shape:
        return None
    valid = labels != IGNORED
    if shifted and valid.dim() == 2:
        valid = torch.cat([valid[:, 1:], valid.new_zeros(valid.shape[0], 1)], dim=1)
    return valid


def attended(inputs: Mapping[str, Any], shape: torch.Size, *, decoder: bool = False) -> Tensor | None:
    """Return where `[batch, positions]` is not padding, as bool; None where nothing says so.

    `decoder` positions are those of the decoder of an encoder-decoder; without a mask it reads its labels.
    """
    mask = inputs.get("decoder_attention_mask" if decoder else "attention_mask")
    if isinstance(mask, Tensor) and mask.shape == shape:
        return mask.bool()
    labels = inputs.get("labels")
    if decoder and isinstance(labels, Tensor) and labels.shape == shape:
        return labels != IGNORED
    return None


def mean_over(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of the values that count; 0 where none does. `valid` has the shape of the values."""
    if valid is None:
        return values.mean()
    return torch.where(valid, values, torch.zeros_like(values)).sum() / valid.sum().clamp(min=1)
