"""A packed file straight into the engine's layout: the weights that it multiplies are never dense."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify import heads, pretrained
from sparsify.configs import config_of
from sparsify.engine.chosen import KERNELS, Chosen
from sparsify.engine.packed import from_rows
from sparsify.engine.rules import FEWEST_ZEROS, Layer, layers_of
from sparsify.engine.whole import follow
from sparsify.linears import shared
from sparsify.storage import Csr, PackedFile


def loaded(packed: PackedFile, folder: Path, choices: Chosen | Mapping[str, Any]) -> nn.Module | None:
    """Return the model in a packed file with the choices made, in float32; None where it must be loaded whole.

    `folder` holds its small files. While transformers makes the model, a single zero, seen as often as needed, stands
    for each weight that the engine multiplies; where it makes another tensor of it (as transformers 4 does), or writes
    weights under names that lead to no layer, there is nothing to be gained. Raises as `accelerate` does, PlanError and
    StateError.
    """
    chosen = choices if isinstance(choices, Chosen) else Chosen.from_dict(choices)
    if heads.named_class(config_of(str(folder))) is None:
        return None
    wanted = _weights(packed, pretrained.skeleton(str(folder)), chosen)
    if not wanted:
        return None
    stands = {name: torch.zeros(1).expand(packed.info(name).shape) for name in wanted.values()}
    state = {name: stands[name] if name in stands else packed.tensor(name) for name in packed.names()}
    model = pretrained.from_folder(folder, state=state, dtype=torch.float32)
    del state
    layers = {layer.name: layer for layer in layers_of(model)}
    if not all(_is_stand(layers[name].module.weight) for name in wanted):
        return None
    kernels = {choice.layer: KERNELS[choice.kernel] for choice in chosen.layers if choice.sparse}
    ready = {layer: _packed(packed, name, layers[layer], kernels[layer]) for layer, name in wanted.items()}
    follow(model, chosen, ready)
    return model


def _weights(packed: PackedFile, model: nn.Module, chosen: Chosen) -> dict[str, str]:
    """Return the layers whose weights need not be dense, with the names that those have in the file."""
    saved = {mine: name for name, mine in pretrained.saved_names(model).items()}
    ties, there, found = shared(model), set(packed.keys()), {}
    layers = {layer.name: layer for layer in layers_of(model)}
    for layer in chosen.sparse:
        name = saved.get(f"{layer}.weight", f"{layer}.weight")
        weight: Any = layers[layer].module._parameters.get("weight") if layer in layers else None
        if weight is None or name not in there or id(weight) in ties:
            continue
        info = packed.info(name)
        real = info.number_type.torch.is_floating_point
        if (
            real
            and info.elements > 1
            and tuple(info.shape) == tuple(weight.shape)
            and 1 - info.kept / info.elements >= FEWEST_ZEROS
        ):
            found[layer] = name
    return found


def _is_stand(weight: Any) -> bool:
    """Whether a weight is still the one number that stands for it."""
    return bool(weight.numel() > 1 and weight.untyped_storage().nbytes() == weight.element_size())


def _packed(packed: PackedFile, name: str, layer: Layer, height: int) -> Tensor:
    """Return a weight of a packed file in the engine's form."""
    rows = packed.csr(name)
    starts, columns, values = _without_zeros(rows, rows.dense_values(packed.info(name).number_type.torch).float())
    if layer.transposed:
        starts, columns, values = _turned(starts, columns, values, layer.shape[0])
    return from_rows(layer.shape, starts, columns, values, height)


def _without_zeros(rows: Csr, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (starts, columns, values); integers and dense tensors may be stored with zeros of either sign."""
    kept = values != 0
    before = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])
    return before[rows.starts], rows.columns[kept], values[kept]


def _turned(starts: Tensor, columns: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix of `count` columns by rows of its transposed one."""
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    order = torch.argsort(columns, stable=True)
    numbers = torch.bincount(columns, minlength=count)
    return torch.cat([torch.zeros(1, dtype=torch.int64), numbers.cumsum(0)]), rows[order], values[order]
