"""Operations within a channel: pooling, resizing, padding, means over places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsify.structure.channels.follower import Call, Follower
from sparsify.structure.channels.labels import Seen, core, varies

WINDOWS = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "grid_sampler_2d",
})  # fmt: skip
"""[n, channels, places …] to [n, channels, other places …]; of zeros they make zeros."""

MEANS = {"mean": 1, "sum": 1, "amax": 1, "amin": 1, "linalg_vector_norm": 2, "var": 1, "std": 1}
"""Reductions, and the position of the dimensions among the arguments."""


def windows(follower: Follower, call: Call) -> bool:
    """Pass on the channels of what is pooled or resized."""
    seen = follower.seen(call.args[0]) if call.args else None
    if seen is None:
        return False
    if call.name == "constant_pad_nd":
        return _padded(follower, call, seen)
    if call.name not in WINDOWS:
        return False
    output, labels = call.results()[0], seen.labels
    if labels.dim() < 3:
        return False
    spatial = len(call.args[0].shape) - (1 if call.args[0].dim() == 3 and not call.name.endswith("1d") else 2)
    return _spread(follower, call, seen, output, spatial)


def _spread(follower: Follower, call: Call, seen: Seen, output: Tensor, spatial: int) -> bool:
    """Give every place of the last dimensions the channel of the first; refuse where places have different ones."""
    labels = core(seen.labels)
    for axis in range(labels.dim() - spatial, labels.dim()):
        if varies(labels, axis):
            follower.keep([call.args[0]], f"{call.name} mixes its channels")
            return True
        labels = labels.narrow(axis, 0, 1)
    follower.note(output, Seen(labels.expand(output.shape), seen.zero, seen.why))
    return True


def _padded(follower: Follower, call: Call, seen: Seen) -> bool:
    """Places around get the channel's label; channels beside the others are nobody's."""
    pad, value = list(call.named["pad"]), call.named.get("value", 0)
    output, labels = call.results()[0], seen.labels
    zero = seen.zero and not value
    for number, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = labels.dim() - 1 - number
        if not before and not after:
            continue
        if not varies(labels, axis):
            shape = list(labels.shape)
            shape[axis] = output.shape[axis]
            labels = labels.narrow(axis, 0, 1).expand(shape)
        elif min(before, after) < 0:
            return False
        else:
            labels = torch.nn.functional.pad(labels, [0, 0] * number + [before, after], value=0)
    follower.note(output, Seen(labels.expand(output.shape), zero, seen.why or f"padding in {follower.where}"))
    return True


def reductions(follower: Follower, call: Call) -> bool:
    """Pass on the channels of a mean over places; a mean over channels keeps them alive."""
    seen = follower.seen(call.args[0]) if call.args else None
    if seen is None or (call.name not in MEANS and call.name not in ("_softmax", "_log_softmax")):
        return False
    value, output = call.args[0], call.results()[0]
    if call.name in MEANS:
        place = MEANS[call.name]
        written = call.args[place] if len(call.args) > place else call.named.get("dim")
        axes = _axes(written, value.dim())
    else:
        axes = _axes(call.args[1], value.dim())
    if any(varies(seen.labels, axis) for axis in axes):
        follower.keep([value], f"{call.name} mixes its channels")
        return True
    if call.name not in MEANS:
        follower.note(output, Seen(seen.labels, False, f"{call.name} in {follower.where}"))
        return True
    labels = seen.labels
    for axis in sorted(axes, reverse=True):
        labels = labels.narrow(axis, 0, 1)
    if output.dim() < value.dim():
        labels = labels.reshape([side for axis, side in enumerate(labels.shape) if axis not in axes])
    follower.note(output, Seen(labels.expand(output.shape), seen.zero, seen.why))
    return True


def _axes(written: Any, rank: int) -> list[int]:
    """Return the dimensions that are meant; all of them where none is named."""
    if written is None or written == []:
        return list(range(rank))
    several = written if isinstance(written, (list, tuple)) else [written]
    return [int(axis) % rank for axis in several]
