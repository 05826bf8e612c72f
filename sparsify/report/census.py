"""Counting the zeros in saved files: by tensor, by role and layer, and as whole densities under named conventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsify import density
from sparsify.anatomy import read
from sparsify.density import Count, total
from sparsify.errors import StateError
from sparsify.layers import Weight, aliases, all_weights
from sparsify.report.apart import Apart
from sparsify.report.labels import layer_labels
from sparsify.report.saved import Saved

CONVENTIONS = {
    "targeted": "what the recipe targets",
    "encoder linear": "linear weights inside the layers, without embeddings, task head, biases and norms",
    "encoder": "everything inside the layers, with biases and norms",
    "linear": "weights of all linear and convolutional layers",
    "model": "every parameter, with embeddings",
}


@dataclass
class Census:
    """Counts of a saved model. `roles` and `grid` are empty where the architecture is unknown."""

    tensors: dict[str, Count] = field(default_factory=dict)
    dimensions: dict[str, int] = field(default_factory=dict)
    """Tensor → how many dimensions it has."""

    roles: dict[str, Count] = field(default_factory=dict)
    grid: dict[str, dict[str, Count]] = field(default_factory=dict)
    """role → layer → count."""

    conventions: dict[str, Count] = field(default_factory=dict)

    others: Counter[str] = field(default_factory=Counter)
    """Number type → tensors that are no real numbers, and so are not counted."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "density": {name: count.to_dict() for name, count in self.conventions.items()},
            "roles": {name: count.to_dict() for name, count in self.roles.items()},
            "layers": {
                role: {layer: count.to_dict() for layer, count in row.items()} for role, row in self.grid.items()
            },
            "tensors": {name: count.to_dict() for name, count in self.tensors.items()},
        }

    def is_convolutional(self) -> bool:
        """Whether most numbers in its matrices are those of convolutions."""
        sizes = {name: count.elements for name, count in self.tensors.items() if self.dimensions.get(name, 0) > 1}
        folded = sum(size for name, size in sizes.items() if self.dimensions[name] > 2)
        return 2 * folded > sum(sizes.values())


def count(
    saved: Saved,
    model: nn.Module | None,
    targeted: Iterable[Weight] = (),
    renamed: Mapping[str, str] | None = None,
    apart: Mapping[str, Apart] | None = None,
    look: Callable[[str, Tensor, Apart | None], None] = lambda name, tensor, piece: None,
) -> Census:
    """Count the zeros in the files of `saved`, each tensor read once.

    `model` has the architecture (the meta device will do), `targeted` are weights of it; `renamed` says which names in
    the files are other names in the model, `apart` which tensors are rows of a parameter. Tensors are listed under the
    model's names. `look` is shown every tensor that is counted: with its parameter's name, and which rows of it it is.
    """
    census = Census()
    counted: dict[str, Count] = {}
    wanted = _regions(model, targeted)
    buffers = {name for name, _ in model.named_buffers()} if model is not None else set()
    for written, tensor in saved.tensors():
        name = (renamed or {}).get(written, written)
        if name in buffers:
            continue
        if not tensor.is_floating_point():
            census.others[str(tensor.dtype).removeprefix("torch.")] += 1
            continue
        if piece := (apart or {}).get(written):
            name = piece.parameter
            census.tensors[name] = total([census.tensors.get(name, Count(0, 0)), density.count(tensor)])
            for weight in wanted.get(name, ()):
                mine = piece.of(weight, tensor)
                counted[weight.name] = total([counted.get(weight.name, Count(0, 0)), density.count(mine)])
            look(name, tensor, piece)
            continue
        census.tensors[name], census.dimensions[name] = density.count(tensor), tensor.dim()
        for weight in wanted.get(name, ()):
            if tensor.shape != weight.parameter.shape:
                shapes = " and ".join("×".join(map(str, t.shape)) or "one number" for t in (tensor, weight.parameter))
                raise StateError(f"{saved.path}: {name} has other sizes in the file and in the model: {shapes}")
            counted[weight.name] = density.count(weight.region(tensor))
        look(name, tensor, None)
    census.conventions["model"] = total(census.tensors.values())
    if model is not None:
        _by_structure(census, model, counted, list(targeted))
    return census


def _regions(model: nn.Module | None, targeted: Iterable[Weight]) -> dict[str, list[Weight]]:
    """Return saved name → weights in it: linear layers, roles, targets; under every name of a tied parameter."""
    if model is None:
        return {}
    anatomy = read(model)
    inside = [weight for layer in anatomy.layers for _, weight in layer.roles()] if anatomy else []
    names = aliases(model)
    found: dict[str, dict[str, Weight]] = {}
    for weight in (*all_weights(model, embeddings=True), *inside, *targeted):
        for name in names.get(id(weight.parameter), [weight.parameter_name]):
            found.setdefault(name, {})[weight.name] = weight
    return {name: list(each.values()) for name, each in found.items()}


def _by_structure(census: Census, model: nn.Module, counted: dict[str, Count], targeted: list[Weight]) -> None:
    of = census.conventions
    anatomy = read(model)
    if targeted:
        of["targeted"] = total(counted[weight.name] for weight in targeted if weight.name in counted)
    if anatomy is not None:
        labels = layer_labels(anatomy.layers)
        for layer in anatomy.layers:
            label = labels[layer.name]
            for role, weight in layer.roles():
                if weight.name in counted:
                    row = census.grid.setdefault(role or "other", {})
                    row[label] = total([row.get(label, Count(0, 0)), counted[weight.name]])
        census.roles = {role: total(row.values()) for role, row in census.grid.items()}
        if anatomy.layers:
            of["encoder linear"] = total(census.roles.values())
            within = tuple(f"{layer.name}." for layer in anatomy.layers)
            of["encoder"] = total(c for name, c in census.tensors.items() if name.startswith(within))
        for role in ("embeddings", "task_head"):
            names = {weight.name for weight in anatomy.role(role)} & set(counted)
            if names:
                census.roles[role] = total(counted[name] for name in names)
    linear = {weight.name for weight in all_weights(model)} & set(counted)
    of["linear"] = total(counted[name] for name in linear)
    census.conventions = {name: of[name] for name in CONVENTIONS if name in of}
