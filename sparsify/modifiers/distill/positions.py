"""Which positions count, and by which number a micro-batch is divided: the same as in the task loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100


def next_token(model: nn.Module) -> bool:
    """Whether labels belong to the next position: a causal language model of transformers."""
    kind, name = getattr(model, "loss_type", None), type(model).__name__
    return kind == "ForCausalLM" or name.endswith(("ForCausalLM", "LMHeadModel"))


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether labels are what a decoder reads: an encoder-decoder of transformers."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def divides_by_items(model: nn.Module) -> bool:
    """Whether a model's own loss is a sum ÷ `num_items_in_batch` where it is given that number.

    Some models of transformers take the number and ignore it: their loss stays a mean, and so must what is added.
    """
    code: Any = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    names = (*code.co_names, *code.co_varnames) if code is not None else ()
    return "loss_function" in names or "num_items_in_batch" in names


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


def share(inputs: Mapping[str, Any], *, shifted: bool) -> Tensor | float:
    """Return the part that this micro-batch has in an optimizer step whose losses are sums ÷ `num_items_in_batch`.

    1 where the loss is a mean, which the loop divides by the number of micro-batches.
    """
    items, labels = inputs.get("num_items_in_batch"), inputs.get("labels")
    if items is None or not isinstance(labels, Tensor):
        return 1.0
    valid = labelled(labels, labels.shape, shifted=shifted)
    counted = valid.sum() if valid is not None else torch.tensor(float(labels.shape[0]), device=labels.device)
    return counted.float() / float(items)


def mean_over(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of the values that count; 0 where none does. `valid` has the shape of the values."""
    if valid is None:
        return values.mean()
    return torch.where(valid, values, torch.zeros_like(values)).sum() / valid.sum().clamp(min=1)
