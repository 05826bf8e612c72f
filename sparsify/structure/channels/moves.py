"""Operations that move elements without changing them: views, permutations, chunks, concatenations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsify.structure.channels.follower import Call, Follower
from sparsify.structure.channels.labels import Origin, Seen

SAME = frozenset({"clone", "contiguous", "detach", "alias", "lift_fresh", "_to_copy", "to", "view_as_real_copy"})
"""What leaves every element in its place."""

MOVES = frozenset({
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "numpy_T", "slice", "select", "split", "chunk",
    "split_with_sizes", "cat", "concat", "stack", "unsqueeze", "squeeze", "expand", "expand_as", "flip", "roll",
    "narrow", "unbind", "index_select", "repeat", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "native_channel_shuffle", "unfold", "movedim", "swapaxes", "flatten", "unflatten", "diagonal",
    "index", "as_strided_view", "_reshape_alias", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes",
})  # fmt: skip
"""What puts every element somewhere, or leaves it out."""

SHAPES = frozenset({
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros",
    "new_ones", "new_full", "sym_size", "sym_numel", "sym_stride", "is_same_size", "empty_strided",
})  # fmt: skip
"""What asks for nothing but a shape."""


def moves(follower: Follower, call: Call) -> bool:
    """Move labels, and the places of parameters, as the elements are moved."""
    if call.name in SHAPES:
        return True
    if call.name not in SAME and call.name not in MOVES:
        return False
    origins = [origin for each in call.tensors() if (origin := follower.origin(each)) is not None]
    seen = [found for each in call.tensors() if (found := follower.seen(each)) is not None]
    if origins and not seen:
        (name, shape), *others = {(origin.name, origin.shape) for origin in origins}
        if others or len(origins) < len(call.tensors()):
            return False

        def places(tensor: Tensor) -> Tensor:
            origin = follower.origin(tensor)
            assert origin is not None
            return origin.places

        for tensor, moved in zip(call.results(), _moved(call, places), strict=True):
            follower.note(tensor, Origin(name, shape, moved))
        return True
    if origins:
        return False

    def labels(tensor: Tensor) -> Tensor:
        found = follower.seen(tensor)
        if found is None:
            return tensor if _indexes(call, tensor) else torch.zeros((), dtype=torch.int64).expand(tensor.shape)
        return found.labels

    zero, why = all(each.zero for each in seen), next((each.why for each in seen if each.why), "")
    for tensor, moved in zip(call.results(), _moved(call, labels), strict=True):
        follower.note(tensor, Seen(moved, zero, why))
    return True


def _indexes(call: Call, tensor: Tensor) -> bool:
    """Whether a tensor says where elements go, and is not moved itself."""
    return call.name in ("index", "index_select", "repeat_interleave") and tensor is not call.args[0]


def _moved(call: Call, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return what comes out of the same operation on other tensors of the same shapes."""
    if call.name in SAME:
        return [of(call.args[0])]
    args = [_replaced(each, of) for each in call.args]
    if call.name in ("view", "_unsafe_view", "_reshape_alias"):
        return [args[0].reshape(call.results()[0].shape)]
    if call.name in ("cat", "concat"):
        return [_joined(args[0], call)]
    found = call.func(*args, **{key: _replaced(each, of) for key, each in call.kwargs.items()})
    return [found] if isinstance(found, Tensor) else list(found)


def _joined(parts: list[Tensor], call: Call) -> Tensor:
    """Concatenate; what is alike along other dimensions stays expanded."""
    axis, shape = call.named.get("dim", 0) % parts[0].dim(), call.results()[0].shape
    parts = [each for each in parts if each.dim() == len(shape)]
    for other in range(len(shape)):
        if other != axis and all(each.stride(other) == 0 or each.shape[other] == 1 for each in parts):
            parts = [each.narrow(other, 0, 1) for each in parts]
    return torch.cat(parts, axis).expand(shape)


def _replaced(value: Any, of: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return of(value)
    return [_replaced(each, of) for each in value] if isinstance(value, (list, tuple)) else value
