"""Learned scores: one for each tile of a bundle, and the gradient that the weights' gradients give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from sparsify.criteria.base import Place
from sparsify.criteria.learned import Gated, Learned
from sparsify.criteria.magnitude import Magnitude
from sparsify.masking.groups import products, tile_scores
from sparsify.patterns.bundle import Bundle, Part


class Scores:
    """The learned scores of one bundle.

    `values` is a parameter: of the weight's own shape where every weight is a group, so that gradients need no
    rearranging, else 1-D, one for each tile. At least float32.
    """

    def __init__(self, bundle: Bundle, criterion: Learned) -> None:
        self.bundle = bundle
        self.criterion = criterion
        self.values = nn.Parameter(self._shaped(self._start()))

    @staticmethod
    def kind(bundle: Bundle) -> tuple[tuple[int, ...], torch.dtype]:
        """Return the shape and dtype of the scores of a bundle."""
        dtypes = [part.weight.parameter.dtype for part in bundle.parts]
        dtype = reduce(torch.promote_types, dtypes, torch.float32)
        return (bundle.parts[0].weight.shape if bundle.single else (bundle.tiles,)), dtype

    @torch.no_grad()
    def _start(self) -> Tensor:
        """Return the first scores, 1-D, from the magnitudes of the weights as they are now."""
        magnitudes = tile_scores(self.bundle, Magnitude(), "mean")
        mean = magnitudes.mean() if magnitudes.numel() else magnitudes.new_ones(())
        relative = magnitudes / mean if float(mean) > 0 else torch.zeros_like(magnitudes)
        return self.criterion.start(relative, Place(self.bundle.name, 0))

    def _shaped(self, tiles: Tensor) -> Tensor:
        """Return scores of tiles in the shape in which they are kept."""
        (weight, *_) = (part.weight for part in self.bundle.parts)
        if not self.bundle.single:
            return tiles
        geometry = weight.geometry
        return weight.uncube(tiles.view(geometry.rows, geometry.taps, geometry.columns)).contiguous()

    @property
    def tiles(self) -> Tensor:
        """The scores as they are now, detached, 1-D, in the order of tiles."""
        values = self.values.detach()
        return self.bundle.parts[0].weight.cube(values).flatten() if self.bundle.single else values

    @torch.no_grad()
    def pull(self, weights: Mapping[str, Tensor], slopes: Tensor | None = None) -> None:
        """Set the scores' gradient: Σ (∂L/∂W′) ⊙ W over each tile, times `slopes` (of tiles) where gates are sampled.

        `weights` are the latent weights by name. Without any gradient in the bundle there is none for the scores.
        Source: Sanh et al. (2020), equation 6; a shared score gets the sum: Lagunas et al. (2021), §3.
        """
        pulled: Tensor | None = None
        for part in self.bundle.parts:
            gradient = part.weight.parameter.grad
            if gradient is None:
                continue
            mine = self._pulled(part, part.weight.region(gradient), weights[part.weight.name])
            pulled = mine if pulled is None else pulled.add_(mine.to(pulled.device))
        if pulled is not None and slopes is not None:
            pulled.mul_(self._shaped(slopes))
        self.values.grad = None if pulled is None else pulled.to(self.values.device, self.values.dtype)

    def _pulled(self, part: Part, gradient: Tensor, weight: Tensor) -> Tensor:
        wide = self.values.dtype
        if self.bundle.single:
            return torch.mul(gradient.to(wide), weight.to(wide))
        return products(part, gradient, weight, wide)

    @torch.no_grad()
    def push(self, strength: float) -> None:
        """Add the gradient of `strength` times the penalty's mean over the groups."""
        criterion = self.criterion
        assert isinstance(criterion, Gated)
        values = self.values.detach()
        slope = criterion.slope(values).mul_(strength / max(values.numel(), 1))
        if self.values.grad is None:
            self.values.grad = slope
        else:
            self.values.grad.add_(slope)


def mean_square(scores: Sequence[Scores]) -> float:
    """Return the mean square of the gradients of these scores, 0 for those without any; one wait for a GPU."""
    norms = [torch.linalg.vector_norm(each.values.grad) for each in scores if each.values.grad is not None]
    groups = sum(each.values.numel() for each in scores)
    squares = [norm.to(norms[0].device, torch.float64).square() for norm in norms]
    return float(torch.stack(squares).sum()) / max(groups, 1) if squares else 0.0
