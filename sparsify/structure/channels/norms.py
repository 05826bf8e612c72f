"""Norms: a channel by itself (batch, instance), channels of a group (group norm), all together (layer norm)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsify.structure.channels.follower import Call, Follower
from sparsify.structure.channels.labels import Seen, along, fill, varies

BATCH = frozenset({
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "batch_norm",
    "_batch_norm_no_update", "_batch_norm_with_update", "cudnn_batch_norm", "miopen_batch_norm",
})  # fmt: skip
STATISTICS = ("running_mean", "running_var")


def norms(follower: Follower, call: Call) -> bool:
    """Pass channels through norms that treat each by itself, and tie those of a norm's group."""
    value = call.args[0] if call.args else None
    seen = follower.seen(value)
    if seen is None or not isinstance(value, Tensor):
        return False
    weight, bias, output = call.named.get("weight"), call.named.get("bias"), (call.results() or [value])[0]
    if call.name in BATCH:
        return _each(follower, call, seen, output, weight, bias)
    if call.name == "native_group_norm":
        labels = along(seen.labels, 1)
        groups = int(call.named["group"])
        if labels is None:
            follower.keep([value, weight, bias], "the norm mixes channels")
            return True
        size = len(labels) // groups
        for start in range(0, len(labels), size):
            first, *others = (int(label) for label in labels[start : start + size])
            for other in others:
                follower.classes.join(first, other, f"{follower.where}: norms it with what cannot die")
        return _each(follower, call, seen, output, weight, bias)
    if call.name in ("native_layer_norm", "_fused_rms_norm", "rms_norm"):
        axes = range(value.dim() - len(call.named["normalized_shape"]), value.dim())
        if any(varies(seen.labels, axis) for axis in axes):
            follower.keep([value, weight, bias], "the norm mixes all channels")
            return True
    return False


def _each(follower: Follower, call: Call, seen: Seen, output: Tensor, weight: Any, bias: Any) -> bool:
    """Pass on the channels; scale and shift die with them, and without both a dead channel is not zero."""
    labels = along(seen.labels, 1)
    if labels is None:
        follower.keep([call.args[0], weight, bias], "the norm mixes channels")
        return True
    channels = [int(label) for label in labels.tolist()]
    scaled = [_attached(follower, each, channels, "norm") for each in (weight, bias) if each is not None]
    for name in STATISTICS:
        _attached(follower, call.named.get(name), channels, "statistic")
    still = call.name == "native_group_norm" and seen.zero
    zero = all(scaled) and (len(scaled) == 2 or (len(scaled) == 1 and weight is not None) or still)
    why = "" if zero else f"{follower.where} shifts by what is no parameter of its own"
    follower.note(output, Seen(fill(labels, 1, output.shape), zero, why))
    return True


def _attached(follower: Follower, tensor: Any, labels: list[int], kind: Any) -> bool:
    """Attach a scale, a shift or a statistic by channel; return whether it is a parameter or a buffer."""
    origin = follower.origin(tensor)
    if origin is None or len(origin.shape) != 1 or origin.places.numel() != len(labels):
        return False
    follower.classes.attach((origin.name, 0), kind, origin.places.flatten().tolist(), labels, follower.where)
    return True
