"""How dense a model is, under named conventions, counted in the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsify.errors import StateError
from sparsify.layers import Named, Weight, all_weights, unwrap
from sparsify.masking import count_zeros


@dataclass(frozen=True)
class Count:
    """Elements and non-zero elements.

    Examples:
        >>> Count(elements=8, nonzeros=2).sparsity
        0.75
    """

    elements: int
    nonzeros: int

    @property
    def density(self) -> float:
        """The fraction that is not zero; 1 for nothing at all."""
        return self.nonzeros / self.elements if self.elements else 1.0

    @property
    def sparsity(self) -> float:
        """The fraction that is zero."""
        return 1 - self.density

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and both fractions."""
        return {**asdict(self), "density": self.density, "sparsity": self.sparsity}


@dataclass(frozen=True)
class Density:
    """Density under three conventions, which differ and are often confused.

    `targeted`: what the recipe targets (with heads and neurons, their biases too). `layers`: all weights of
    linear and convolutional layers. `model`: every parameter, with embeddings, norms and biases; a tied one once.
    """

    targeted: Count
    layers: Count
    model: Count
    tensors: dict[str, Count] = field(repr=False)
    not_finite: tuple[str, ...] = ()
    """Targeted tensors with NaN or infinite values in them."""

    def __str__(self) -> str:
        """Return a line for each convention."""
        counts = {"targeted": self.targeted, "layers": self.layers, "model": self.model}
        return "\n".join(
            f"{name:8}  {count.sparsity:7.2%} zero: {count.nonzeros:,} of {count.elements:,} weights are left"
            for name, count in counts.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "targeted": self.targeted.to_dict(),
            "layers": self.layers.to_dict(),
            "model": self.model.to_dict(),
            "tensors": {name: count.to_dict() for name, count in self.tensors.items()},
        }


def measure(model: nn.Module, targeted: Iterable[Weight] = ()) -> Density:
    """Count the zeros of a model, and of what is targeted in it or in a model of the same names.

    Raises StateError for a targeted weight that the model lacks, and for weights on the meta device.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.fill_(1.0)[0].zero_()  # the first of two outputs
        ...     _ = model[0].bias.fill_(1.0)
        >>> density = measure(model)
        >>> density.layers
        Count(elements=8, nonzeros=4)
        >>> density.model.density
        0.6
    """
    model = unwrap(model)
    named = Named(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise StateError(
            f"{type(model).__name__} has weights on the meta device, where there is nothing to count; those of sparse "
            "layers come back with sparsify.engine.restore(model)"
        )
    layers = {weight.name: count(weight.tensor) for weight in all_weights(model)}
    regions = {weight.name: weight.region(named.get(weight).detach()) for weight in targeted}
    tensors = {name: count(region) for name, region in regions.items()}
    wrong = tuple(name for name, region in regions.items() if not bool(region.isfinite().all()))
    every = [Count(p.numel(), p.numel() - count_zeros(p)) for p in model.parameters()]
    return Density(total(tensors.values()), total(layers.values()), total(every), tensors, wrong)


def count(tensor: Tensor) -> Count:
    """Count a tensor."""
    return Count(tensor.numel(), tensor.numel() - count_zeros(tensor))


def total(counts: Iterable[Count]) -> Count:
    """Return the sum."""
    counts = list(counts)
    return Count(sum(c.elements for c in counts), sum(c.nonzeros for c in counts))
