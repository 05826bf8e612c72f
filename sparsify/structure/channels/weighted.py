"""What reads channels and computes others: convolutions and linear layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsify.structure.channels.follower import Call, Follower
from sparsify.structure.channels.labels import Origin, Seen, along, fill

ALIVE = "the inputs of its group are no channels that may die"


def convolution(follower: Follower, call: Call) -> bool:
    """Read the columns of a convolution's weight, and label its rows."""
    if call.name not in ("convolution", "_convolution"):
        return False
    value, weight, bias = call.named["input"], call.named["weight"], call.named.get("bias")
    groups, transposed = call.named["groups"], bool(call.named["transposed"])
    origin, output = follower.origin(weight), call.results()[0]
    seen = follower.seen(value)
    inputs = _channels(follower, value, seen, 1)
    if origin is not None and transposed and groups > 1:
        follower.classes.strange[origin.name] = "is a transposed convolution in groups, which is not followed"
        origin = None
    if origin is None or tuple(weight.shape) != origin.shape or inputs is None:
        follower.keep([value, weight, bias], f"{_kind(origin)} is not followed")
        return True
    rows, columns = (1, 0) if transposed else (0, 1)
    outputs = follower.classes.new((origin.name, rows), output.shape[1])
    if groups == 1:
        _read(follower, seen, inputs)
        _attach(follower, (origin.name, columns), "input", range(len(inputs)), inputs)
    else:
        _tie(follower, inputs, outputs, groups)
    zero, why = _produce(follower, (origin.name, rows), outputs, bias)
    follower.note(output, Seen(fill(outputs, 1, output.shape), zero, why))
    return True


def linear(follower: Follower, call: Call) -> bool:
    """Read the columns of a matrix, and label its rows."""
    bias = None
    if call.name == "addmm":
        if call.named.get("beta", 1) != 1 or call.named.get("alpha", 1) != 1:
            return False
        bias, value, matrix = call.args[:3]
    elif call.name == "mm":
        value, matrix = call.args[:2]
    elif call.name == "linear":
        value, matrix, bias = call.args[0], call.args[1].t(), call.named.get("bias")
        if (stored := follower.origin(call.args[1])) is not None:
            follower.note(matrix, Origin(stored.name, stored.shape, stored.places.t()))
    else:
        return False
    origin, output, seen = follower.origin(matrix), call.results()[0], follower.seen(value)
    inputs = _channels(follower, value, seen, -1)
    found = _lines(origin) if origin is not None else None
    if origin is None or found is None or inputs is None:
        follower.keep([value, matrix, bias], f"{_kind(origin)} is not followed")
        return True
    axis, rows, columns = found
    _read(follower, seen, inputs)
    _attach(follower, (origin.name, 1 - axis), "input", columns, inputs)
    outputs = follower.classes.new((origin.name, axis), origin.shape[axis])[rows]
    zero, why = _produce(follower, (origin.name, axis), outputs, bias, rows)
    follower.note(output, Seen(fill(outputs, -1, output.shape), zero, why))
    return True


def _kind(origin: Origin | None) -> str:
    return "a layer whose weight is computed" if origin is None else origin.name


def _lines(origin: Origin) -> tuple[int, Tensor, Tensor] | None:
    """Return (dimension of outputs, rows, columns) of a matrix [inputs, outputs] in its parameter, or None."""
    if len(origin.shape) != 2 or origin.places.dim() != 2:
        return None
    first, second = origin.places // origin.shape[1], origin.places % origin.shape[1]
    for axis, rows, columns in ((0, first, second), (1, second, first)):
        if bool((rows == rows[:1]).all()) and bool((columns == columns[:, :1]).all()):
            return axis, rows[0], columns[:, 0]
    return None


def _channels(follower: Follower, value: Tensor, seen: Seen | None, axis: int) -> list[int] | None:
    """Return the label of every input channel; None where places have different ones."""
    if seen is None:
        return [0] * value.shape[axis]
    labels = along(seen.labels, axis % value.dim())
    return None if labels is None else [int(label) for label in labels.tolist()]


def _read(follower: Follower, seen: Seen | None, labels: list[int]) -> None:
    """What is read must be zero where a channel is dead."""
    if seen is not None and not seen.zero:
        follower.classes.keep(labels, f"{follower.where} reads what a dead channel leaves: not zero ({seen.why})")


def _attach(follower: Follower, place: tuple[str, int], kind: Any, positions: Any, labels: Any) -> None:
    follower.classes.attach(place, kind, [int(each) for each in positions], labels, follower.where)


def _tie(follower: Follower, inputs: list[int], outputs: Tensor, groups: int) -> None:
    """A group of a convolution dies as a whole: its outputs, and the channels that it reads."""
    into, out = len(inputs) // groups, len(outputs) // groups
    for group in range(groups):
        read = inputs[group * into : (group + 1) * into]
        rows = [int(label) for label in outputs[group * out : (group + 1) * out]]
        first = rows[0]
        for label in (*rows[1:], *read):
            follower.classes.join(first, label, f"{follower.where}: {ALIVE}")


def _produce(
    follower: Follower, place: tuple[str, int], outputs: Tensor, bias: Any, rows: Tensor | None = None
) -> tuple[bool, str]:
    """Attach rows and their biases; return whether dead rows make zeros, and if not, why."""
    labels = [int(label) for label in outputs]
    positions = range(len(labels)) if rows is None else rows.tolist()
    _attach(follower, place, "output", positions, labels)
    if bias is None:
        return True, ""
    origin = follower.origin(bias)
    if origin is None or len(origin.shape) != 1 or origin.places.numel() != len(labels):
        return False, f"the bias of {follower.where} is computed"
    _attach(follower, (origin.name, 0), "bias", origin.places.flatten().tolist(), labels)
    return True, ""
