"""Models in which nothing repeats (a plain `Sequential`, an LSTM with a classifier): roles without layers."""

from __future__ import annotations

from torch import nn

from sparsify.anatomy.parts import Anatomy
from sparsify.anatomy.words import HEADS, called, is_adapter
from sparsify.layers import TABLES, Weight, adapters, all_weights


def unlayered(model: nn.Module) -> Anatomy | None:
    """Return the roles of a model without layers, or None where it has no matrix.

    Tables are embeddings. The task head is the last matrix of everything that is called a head (`head`, `classifier`,
    …), else the last of all, in the order of definition; a model of one matrix has none. The rest is `default`.
    """
    beside = adapters(model)
    weights = [
        weight
        for weight in all_weights(model, embeddings=True)
        if not is_adapter(weight.parameter_name) and id(weight.parameter) not in beside
    ]
    tables = {id(part.weight) for part in model.modules() if isinstance(part, TABLES)}
    rest = [weight for weight in weights if weight.layout != "embedding" and id(weight.parameter) not in tables]
    tied = [weight for weight in weights if weight.layout != "embedding" and id(weight.parameter) in tables]
    heads = tuple(_heads(rest)) if not tied else tuple(tied)
    if not rest and not heads:
        return None
    own = {id(weight.parameter) for weight in heads}
    return Anatomy(
        layers=(),
        embeddings=tuple(
            weight for weight in weights if id(weight.parameter) in tables or weight.layout == "embedding"
        ),
        task_head=heads,
        between=tuple(weight for weight in rest if id(weight.parameter) not in own),
    )


def nothing(model: nn.Module) -> str:
    """Say that a model has no matrix in a layer that is known, and how those that it has can be meant."""
    kind = type(model).__name__
    found = [name for name, parameter in model.named_parameters() if parameter.dim() == 2]
    if not found:
        return f"{kind} has no matrix that can be pruned"
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return (
        f"{kind} has no matrix in a layer of a known class: name parameters in `targets` ({shown}), or make their "
        "class known by sparsify.register_layer"
    )


def _heads(weights: list[Weight]) -> list[Weight]:
    """Return the last matrix of every head, in the order of definition."""
    if len(weights) < 2:
        return []
    last: dict[str, Weight] = {}
    for weight in weights:
        owner = weight.parameter_name.rpartition(".")[0]
        if called(owner, HEADS):
            last[_root(owner)] = weight
    found = list(last.values()) or [weights[-1]]
    return found if len(found) < len(weights) else found[-1:]


def _root(name: str) -> str:
    """Return the part of a dotted name up to the one that says that it is a head."""
    parts = name.split(".")
    depth = next(depth for depth in range(1, len(parts) + 1) if called(parts[depth - 1], HEADS))
    return ".".join(parts[:depth])
