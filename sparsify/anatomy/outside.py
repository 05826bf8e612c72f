"""What lies outside the layers: embeddings, task head, and what joins one stack to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sparsify.anatomy.building import is_a
from sparsify.anatomy.words import EMBEDDINGS, HEADS, called, is_adapter
from sparsify.layers import TABLES, Weight, adapters

CONVS = ("conv", "deconv")


@dataclass(frozen=True)
class Outside:
    """The weights outside the layers, in the model's order."""

    embeddings: tuple[Weight, ...]
    task_head: tuple[Weight, ...]
    between: tuple[Weight, ...]
    """What joins the parts of a model: a projector from images to text, say."""


def sort_outside(model: nn.Module, weights: Sequence[Weight], layers: Sequence[str], homes: tuple[str, ...]) -> Outside:
    """Return what each weight outside the layers is; `layers` are their names, `homes` classes or names of embeddings.

    Tables are embeddings, and so is what lies in a home, is called so, or is a convolution before the first layer. A
    linear layer is of the task head where it is called so, or lies behind the last layer and the last convolution. The
    rest joins parts.
    Adapters are none of them.
    """
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    places = [order[name] for name in layers]
    first, last = min(places, default=len(order)), max(places, default=-1)
    tables = {id(part.weight) for part in model.modules() if isinstance(part, TABLES)}
    found: dict[str, list[Weight]] = {"embeddings": [], "task_head": [], "between": []}
    beside = adapters(model)
    convolved = max((order[_owner(each)] for each in weights if each.layout in CONVS), default=-1)
    for weight in weights:
        if is_adapter(weight.parameter_name) or id(weight.parameter) in beside:
            continue
        owner = _owner(weight)
        place = order[owner]
        ends = weight.layout not in CONVS and (place > max(last, convolved) or _narrows(weight, place < first))
        if _is_embedding(model, weight, homes) or (weight.layout == "conv" and place < first and layers):
            kind = "embeddings"
        elif called(owner, HEADS) or ends:
            kind = "task_head"
        else:
            kind = "between"
        found[kind].append(weight)
        if id(weight.parameter) in tables and kind != "embeddings":  # tied: it is both
            found["embeddings"].append(weight)
    return Outside(**{name: tuple(each) for name, each in found.items()})


def _owner(weight: Weight) -> str:
    return weight.parameter_name.rpartition(".")[0]


def _narrows(weight: Weight, before: bool) -> bool:
    """Whether a matrix that is defined before the layers has fewer outputs than inputs, as a classifier has."""
    return before and weight.geometry.rows < weight.geometry.columns


def _is_embedding(model: nn.Module, weight: Weight, homes: tuple[str, ...]) -> bool:
    if weight.layout == "embedding":
        return True
    owner = _owner(weight)
    parts = owner.split(".")
    if called(owner, HEADS):
        return False
    if any(EMBEDDINGS.fullmatch(part) or part in homes for part in parts):
        return True
    return any(is_a(model.get_submodule(".".join(parts[:depth])), homes) for depth in range(1, len(parts) + 1))
