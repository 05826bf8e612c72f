"""By what a sample is known: a hash of everything that the model was given of it, padding left out."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsify.errors import HookError
from sparsify.modifiers.distill.positions import IGNORED

BYTES = 16
IRRELEVANT = (
    "num_items_in_batch",
    "cache_position",
    "return_dict",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
)
"""Arguments of a forward that change no logits, or belong to the batch and to none of its samples."""
DECODER = ("labels", "decoder_input_ids", "decoder_attention_mask")


def keys_of(inputs: Mapping[str, Any], batch: int, counted: Tensor | None, *, salt: str, decoder: bool) -> list[bytes]:
    """Return the keys of the samples of a batch, 16 bytes each.

    `inputs` are the arguments of the forward by name; tensors whose first dimension is `batch` have a row for each
    sample. Positions that are padding are cut off, so that a sample has one key however far it was padded; padding
    before or within a sample moves its tokens, and counts. `counted` `[batch, positions]` is which positions are
    distilled; `decoder` says that labels belong to a decoder. Raises HookError for arguments that cannot be hashed.
    """
    masks, whose = _masks(inputs, decoder=decoder), 0
    common = hashlib.blake2b(salt.encode(), digest_size=BYTES)
    rows = [hashlib.blake2b(digest_size=BYTES) for _ in range(batch)]
    for name, value in sorted(_leaves(inputs), key=lambda leaf: leaf[0]):
        if not isinstance(value, Tensor):
            common.update(f"{name}={value!r};".encode())
            continue
        if value.dim() == 2 and value.shape[0] == 1 and batch > 1:  # one row for all, as positions may be given
            value = value.expand(batch, -1)
        if value.dim() == 0 or value.shape[0] != batch:
            common.update(f"{name} {value.dtype} {tuple(value.shape)}:".encode() + bytes_of(value))
            continue
        whose += 1
        mask = masks.get(name in DECODER and decoder)
        for digest, part in zip(rows, _parts(value, mask), strict=True):
            digest.update(f"{name} {value.dtype} {len(part)}:".encode() + part)
    if not whose and batch > 1:
        raise HookError(f"the cache finds no input with a row for each of {batch} samples: leave `cache` out")
    if counted is not None:
        for digest, row in zip(rows, counted, strict=True):
            digest.update(b"counted:" + bytes_of(row.nonzero().flatten()))
    shared = common.digest()
    for digest in rows:
        digest.update(shared)
    return [digest.digest() for digest in rows]


def _leaves(inputs: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in inputs.items():
        name = f"{above}{key}"
        if name in IRRELEVANT or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        elif isinstance(value, (tuple, list)):
            yield from _leaves({str(index): each for index, each in enumerate(value)}, f"{name}.")
        elif isinstance(value, (Tensor, bool, int, float, str)):
            yield name, value
        else:
            raise HookError(
                f"the cache cannot tell samples apart by {name}, a {type(value).__name__}: leave `cache` out"
            )


def _masks(inputs: Mapping[str, Any], *, decoder: bool) -> dict[bool, Tensor]:
    """Return which positions are no padding: of the inputs (False), and of a decoder (True)."""
    found = {}
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    if isinstance(mask, Tensor) and mask.dim() in (2, 3):
        found[False] = mask.cpu() != 0
    if not decoder:
        return found
    mask = inputs.get("decoder_attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        found[True] = mask.cpu() != 0
    elif isinstance(labels, Tensor) and labels.dim() == 2:
        counts = labels.cpu() != IGNORED
        found[True] = counts.flip(-1).cumsum(-1).flip(-1) > 0
    return found


def _parts(value: Tensor, mask: Tensor | None) -> Sequence[bytes]:
    """Return the bytes of each row, without padding where the mask has the shape of the value."""
    value = value.detach().cpu().contiguous()
    if mask is not None and mask.shape == value.shape:
        lengths = mask.sum(-1)
        behind = (mask == (torch.arange(mask.shape[-1]) < lengths[..., None])).flatten(1).all(1).tolist()
        if value.dim() > 2:
            rows = zip(value, mask, lengths, behind, strict=True)
            return [bytes_of(row[real]) + bytes_of(many if only else real) for row, real, many, only in rows]
        counts = lengths.tolist()
        rows_of_two = zip(value, mask, counts, behind, strict=True)
        return [bytes_of(row[:many]) if only else _moved(row, real) for row, real, many, only in rows_of_two]
    data = bytes_of(value)
    stride = len(data) // value.shape[0] if value.shape[0] else 0
    return [data[row * stride : (row + 1) * stride] for row in range(value.shape[0])]


def _moved(row: Tensor, real: Tensor) -> bytes:
    """Return the bytes of a row with padding before or within it, and where its tokens stand."""
    end = int(real.nonzero().max()) + 1 if bool(real.any()) else 0
    return bytes_of(row[real]) + bytes_of(real[:end])


def bytes_of(tensor: Tensor) -> bytes:
    """Return what a tensor holds, row by row."""
    tensor = tensor.detach().cpu().contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size()) if tensor.numel() else b""
