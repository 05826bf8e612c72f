"""The masks in force: one for each masked parameter, whoever made it, and the latent weights beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify.bits import bits
from sparsify.errors import StateError
from sparsify.layers import Weight
from sparsify.masking.groups import spread
from sparsify.masking.project import project_
from sparsify.patterns.bundle import Part


@dataclass
class Latent:
    """A weight as it is without its mask: what the optimizer sees, while the model sees W ⊙ mask (⊙ gate)."""

    weight: Weight
    tensor: Tensor
    """In the shape of the weight's region."""

    part: Part | None = None
    gate: Tensor | None = None
    """What every tile of `part` is multiplied with beside its mask; 1-D."""

    sampled: bool = False
    """Whether the gates are those of one step: the mask waits until it is over."""

    bare: bool = False
    """Whether the model holds it as it is: right after a step, until it is shown under its mask."""

    def gates(self) -> Tensor | None:
        """Return the gates in the shape of the weight, or None."""
        return None if self.gate is None or self.part is None else spread(self.part, self.gate).to(self.tensor.dtype)


class MaskStore:
    """Masks (bool, True = keep, the shape of the weight's region) by the weight's name."""

    def __init__(self) -> None:
        self._weights: dict[str, Weight] = {}
        self._masks: dict[str, Tensor] = {}
        self._owners: dict[str, str] = {}
        self._latents: dict[str, Latent] = {}

    def __iter__(self) -> Iterator[tuple[str, Weight, Tensor]]:
        for name, mask in self._masks.items():
            weight = self._weights[name]
            yield name, weight, self._near(name, mask, weight.parameter)

    def _near(self, name: str, mask: Tensor, parameter: Tensor) -> Tensor:
        """Return the mask on the parameter's device, which may have changed since."""
        if mask.device != parameter.device:
            mask = self._masks[name] = mask.to(parameter.device)
        return mask

    def set(self, weight: Weight, mask: Tensor, owner: str = "") -> None:
        """Put a mask in force (not yet applied); `owner` made it."""
        self._weights[weight.name] = weight
        self._masks[weight.name] = mask
        self._owners[weight.name] = owner

    def replace(self, weight: Weight, mask: Tensor, owner: str) -> None:
        """Put the mask of a whole parameter in force, in place of those of its parts."""
        for name in [name for name, part in self._weights.items() if part.parameter_name == weight.parameter_name]:
            del self._weights[name], self._masks[name], self._owners[name]
        self.set(weight, mask, owner)

    def owner(self, name: str) -> str:
        """Return who made the mask in force; empty without one."""
        return self._owners.get(name, "")

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def count(self, weights: Iterable[Weight]) -> tuple[int, int]:
        """Return the elements of these weights, and how many of them a mask prunes: their own, or the whole's."""
        elements = pruned = 0
        for weight in weights:
            elements += weight.geometry.elements
            mask = self._masks.get(weight.name)
            if mask is None and weight.parameter_name in self._masks:
                mask = weight.region(self._masks[weight.parameter_name])
            pruned += 0 if mask is None else mask.numel() - int(torch.count_nonzero(mask))
        return elements, pruned

    # ------------------------------------------------------------------ latent weights

    def hold(self, weight: Weight, tensor: Tensor | None = None) -> None:
        """Keep the weight as it is now (or a saved one) aside, to be swapped in for the optimizer's step."""
        now = weight.tensor
        self._latents[weight.name] = Latent(weight, now.clone() if tensor is None else now.clone().copy_(tensor))

    @property
    def latents(self) -> int:
        """How many weights are latent."""
        return len(self._latents)

    def latent(self, name: str) -> Latent:
        """Return the latent weight of this name."""
        return self._latents[name]

    def release(self, name: str) -> None:
        """Forget a latent weight: what is masked from now on is lost."""
        self._latents.pop(name, None)

    @torch.no_grad()
    def swap_in(self, but: Collection[str] = ()) -> None:
        """Write the latent weights into the model, for the optimizer; not those named in `but`."""
        for name, latent in self._latents.items():
            if name not in but:
                latent.weight.tensor.copy_(latent.tensor)

    @torch.no_grad()
    def swap_out(self) -> None:
        """Take over what the optimizer made of the latent weights; `project` must follow."""
        for latent in self._latents.values():
            latent.tensor.copy_(latent.weight.tensor)
            latent.bare = True

    # ------------------------------------------------------------------ what the model sees

    def project(self) -> None:
        """Write zeros wherever a mask says so, into what else is there or into latent weights (with their gates)."""
        self.project_plain()
        self.project_latent()

    @torch.no_grad()
    def project_plain(self) -> None:
        """Write zeros into weights that have no latent one."""
        for name, weight, mask in self:
            if name not in self._latents:
                project_(weight.tensor, mask)

    @torch.no_grad()
    def project_latent(self) -> None:
        """Write latent weights under their masks and gates into the model."""
        for name in self._latents:
            self.show(name)

    @torch.no_grad()
    def show(self, name: str) -> None:
        """Write one latent weight under its mask and gates into the model; gates that are sampled know no mask."""
        latent = self._latents[name]
        self._show(latent)
        if name in self._masks and not latent.sampled:
            project_(latent.weight.tensor, self._near(name, self._masks[name], latent.weight.parameter))

    def _show(self, latent: Latent) -> None:
        tensor, gates = latent.weight.tensor, latent.gates()
        if gates is not None:
            torch.mul(latent.tensor, gates, out=tensor)
        elif not latent.bare:
            tensor.copy_(latent.tensor)
        latent.bare = False

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Multiply the gradients with the masks and the gates."""
        for latent in self._latents.values():
            gates, gradient = latent.gates(), latent.weight.parameter.grad
            if gates is not None and gradient is not None:
                latent.weight.region(gradient).mul_(gates)
        for name, weight, mask in self:
            gradient = weight.parameter.grad
            sampled = name in self._latents and self._latents[name].sampled
            if gradient is not None and not gradient.is_sparse and not sampled:
                project_(weight.region(gradient), mask)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks, eight to a byte, with their shapes."""
        return {
            name: {"shape": list(mask.shape), "packed": pack(mask.cpu()), "owner": self._owners[name]}
            for name, mask in self._masks.items()
        }

    def load_state_dict(self, state: dict[str, Any], known: dict[str, Weight]) -> None:
        """Replace all masks. Raises StateError for a parameter that is not there or has another shape."""
        masks: dict[str, Tensor] = {}
        owners: dict[str, str] = {}
        for name, saved in state.items():
            if name not in known:
                raise StateError(f"the state has a mask for {name}, which the model or the recipe lacks")
            shape = known[name].shape
            if tuple(saved["shape"]) != shape:
                raise StateError(f"the state's mask for {name} is {tuple(saved['shape'])}, the parameter {shape}")
            masks[name] = unpack(saved["packed"], shape).to(known[name].parameter.device)
            owners[name] = str(saved["owner"])
        self._masks, self._owners = masks, owners
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
