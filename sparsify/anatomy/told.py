"""An anatomy as plain data, and inferred families as the source of a family file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from torch import nn

from sparsify.anatomy.absent import absent
from sparsify.anatomy.architecture import Architecture
from sparsify.anatomy.coverage import coverage
from sparsify.anatomy.parts import DEFAULT, Anatomy, Attention, FeedForward, Layer

WIDTH = 100
"""Columns of a family that is written as Python."""


def told(model: nn.Module, anatomy: Anatomy) -> dict[str, Any]:
    """Return stacks of layers, roles, what is covered by `default`, and what is absent or in doubt, as plain data."""
    stacks: dict[tuple[str, str], list[Layer]] = {}
    for layer in anatomy.layers:
        stacks.setdefault((layer.stack, layer.family), []).append(layer)
    return {
        "model": type(model).__name__,
        "stacks": [
            {
                "name": name,
                "family": family,
                "inferred": layers[0].inferred,
                "layers": len(layers),
                "heads": _each(_heads(block) for layer in layers for block in layer.attentions),
                "neurons": _each(str(block.neurons) for layer in layers for block in layer.feed_forwards),
                "weights": sum(weight.geometry.elements for layer in layers for _, weight in layer.roles()),
            }
            for (name, family), layers in stacks.items()
        ],
        "roles": [
            {
                "role": role,
                "tensors": len(anatomy.role(role)),
                "weights": sum(weight.geometry.elements for weight in anatomy.role(role)),
            }
            for role in anatomy.roles()
        ],
        "coverage": coverage(model, anatomy, anatomy.role(DEFAULT)).to_dict(),
        "absent": absent(model),
        "doubts": _doubts([*anatomy.attentions, *anatomy.feed_forwards]),
    }


def _each(values: Iterable[str]) -> str:
    """Return what values there are, each once; `no` where there are none."""
    return ", ".join(dict.fromkeys(values)) or "no"


def _heads(block: Attention) -> str:
    return str(block.heads) if block.groups == block.heads else f"{block.heads} in {block.groups} groups"


def _doubts(blocks: Iterable[Attention | FeedForward]) -> list[dict[str, Any]]:
    """Return what is not offered, by reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for block in blocks:
        if block.doubt:
            unit = "heads" if isinstance(block, Attention) else "neurons"
            found.setdefault((unit, block.doubt), []).append(block.name)
    return [{"units": unit, "why": why, "blocks": names} for (unit, why), names in found.items()]


def source(families: Iterable[Architecture]) -> str:
    """Return inferred families as Python that declares them: a file to correct, complete and register as a plug-in.

    What could not be verified is left out.
    """
    parts = ["from sparsify.anatomy import Architecture, AttentionPaths, FeedForwardPaths, register\n"]
    for family in families:
        verified = {
            "attentions": tuple(paths for paths in family.attentions if not paths.doubt),
            "feed_forwards": tuple(paths for paths in family.feed_forwards if not paths.doubt),
        }
        declared = _written(family, 4, skip=("inferred", *verified), more=verified)
        parts.append(f"register(\n    {declared}\n)\n")
    return "\n".join(parts)


def _written(value: Any, indent: int = 0, skip: tuple[str, ...] = (), more: dict[str, Any] | None = None) -> str:
    """Return the expression that makes a value; fields that have their defaults are left out.

    What does not fit in a line of `WIDTH` has an argument a line, as formatters write it.
    """
    deeper = indent + 4
    if isinstance(value, tuple):
        name, parts = "", [_written(each, deeper) for each in value]
        whole = f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    elif hasattr(type(value), "__dataclass_fields__"):
        known = {each.name: each.default for each in fields(value) if each.name not in skip}
        named = {key: getattr(value, key) for key, default in known.items() if getattr(value, key) != default}
        named |= {key: each for key, each in (more or {}).items() if each}
        name, parts = type(value).__name__, [f"{key}={_written(each, deeper)}" for key, each in named.items()]
        whole = f"{name}({', '.join(parts)})"
    else:
        text = repr(value)
        return f'"{text[1:-1]}"' if isinstance(value, str) and '"' not in text else text
    if indent + len(whole) <= WIDTH and "\n" not in whole:
        return whole
    lines = "".join(f"{' ' * deeper}{part},\n" for part in parts)
    return f"{name}(\n{lines}{' ' * indent})"
