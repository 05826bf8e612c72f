"""The masks in force: one for each masked parameter, whoever made it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sparsify.bits import bits
from sparsify.errors import StateError
from sparsify.layers import Weight
from sparsify.masking.project import project_


class MaskStore:
    """Masks (bool, True = keep, the shape of the weight's region) by the weight's name."""

    def __init__(self) -> None:
        self._weights: dict[str, Weight] = {}
        self._masks: dict[str, Tensor] = {}

    def __iter__(self) -> Iterator[tuple[str, Weight, Tensor]]:
        for name, mask in self._masks.items():
            weight = self._weights[name]
            yield name, weight, self._near(name, mask, weight.parameter)

    def _near(self, name: str, mask: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask on the parameter's device, which may have changed since."""
        if mask.device != parameter.device:
            mask = self._masks[name] = mask.to(parameter.device)
        return mask

    def set(self, weight: Weight, mask: Tensor) -> None:
        """Put a mask in force (not yet applied)."""
        self._weights[weight.name] = weight
        self._masks[weight.name] = mask

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    @torch.no_grad()
    def project(self) -> None:
        """Write zeros wherever a mask says so."""
        for _, weight, mask in self:
            project_(weight.tensor, mask)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of what is masked."""
        for _, weight, mask in self:
            gradient = weight.parameter.grad
            if gradient is not None and not gradient.is_sparse:
                project_(weight.region(gradient), mask)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks, eight to a byte, with their shapes."""
        return {name: {"shape": list(mask.shape), "packed": pack(mask.cpu())} for name, mask in self._masks.items()}

    def load_state_dict(self, state: dict[str, Any], known: dict[str, Weight]) -> None:
        """Replace all masks. Raises StateError for a parameter that is not there or has another shape."""
        masks: dict[str, Tensor] = {}
        for name, saved in state.items():
            if name not in known:
                raise StateError(f"the state has a mask for {name}, which the model or the recipe lacks")
            shape = known[name].shape
            if tuple(saved["shape"]) != shape:
                raise StateError(f"the state's mask for {name} is {tuple(saved['shape'])}, the parameter {shape}")
            masks[name] = unpack(saved["packed"], shape).to(known[name].parameter.device)
        self._masks = masks
        self._weights = {name: known[name] for name in masks}


def pack(mask: Tensor) -> Tensor:
    """Return a bool tensor as uint8, eight elements to a byte, the first in the lowest bit."""
    flat = mask.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8).to(torch.uint8)
    packed = torch.zeros(padded.shape[0], dtype=torch.uint8)
    for bit in range(8):
        packed |= padded[:, bit] << bit
    return packed


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the bool tensor of `shape` that `pack` packed."""
    bits = torch.stack([(packed >> bit) & 1 for bit in range(8)], dim=1).reshape(-1)
    return bits[: torch.Size(shape).numel()].to(torch.bool).view(shape)


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """Return a checksum of a tensor's bits: equal tensors agree, on any device, changed ones hardly ever."""
    data = bits(tensor.contiguous().view(-1))
    places = torch.arange(1, 1 + min(data.numel(), 4096), device=data.device, dtype=torch.int64)
    return int(data.sum(dtype=torch.int64)) ^ int((data[: places.numel()].to(torch.int64) * places).sum())
