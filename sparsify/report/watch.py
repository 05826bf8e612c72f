"""Looks at the matrices of a model while its files are read, a tensor at a time, and keeps their traces."""

from __future__ import annotations

from torch import Tensor, nn

from sparsify.anatomy import Anatomy
from sparsify.layers import Weight, aliases
from sparsify.report.apart import Apart
from sparsify.report.drawn import Chosen, Maps, choose
from sparsify.report.living import Living, living
from sparsify.report.trace import Trace, trace


class Watch:
    """Is shown every tensor of a model's files; then knows what lives, and how dense each matrix is where."""

    def __init__(self, model: nn.Module, anatomy: Anatomy | None, widest: Anatomy | None = None) -> None:
        self._anatomy, self._widest = anatomy, widest
        self._chosen = choose(anatomy) if anatomy is not None else Chosen()
        self._drawn = {weight.name for _, weight in self._chosen.places}
        self._wanted = _wanted(model, anatomy) if anatomy is not None else {}
        self._traces: dict[str, Trace] = {}

    def __call__(self, name: str, tensor: Tensor, piece: Apart | None) -> None:
        """Look at a tensor: a parameter, or a piece of one that is saved apart. What has other sizes is passed over."""
        for weight in self._wanted.get(name, ()):
            cube = _cube(weight, tensor, piece)
            if cube is not None:
                self._traces[weight.name] = trace(cube, drawn=weight.name in self._drawn)

    def living(self) -> Living:
        """Return what lives of what was seen."""
        return living(self._anatomy, self._traces, self._widest) if self._anatomy is not None else Living()

    def maps(self) -> Maps:
        """Return the maps of what was seen."""
        return self._chosen.maps(self._traces)


def _cube(weight: Weight, tensor: Tensor, piece: Apart | None) -> Tensor | None:
    """Return a weight as it is in a saved tensor, [rows, taps, columns]; None if it is not whole there."""
    if piece is not None:
        mine = piece.of(weight, tensor).movedim(piece.axis, 0)
        return mine.flatten(1).unsqueeze(1) if len(mine) == weight.geometry.rows else None
    return weight.cube(weight.region(tensor)) if tensor.shape == weight.parameter.shape else None


def _wanted(model: nn.Module, anatomy: Anatomy) -> dict[str, list[Weight]]:
    """Return name of a parameter → weights of blocks in it, and of biases that keep neurons alive; under all names."""
    weights: dict[str, Weight] = {}
    for layer in anatomy.layers:
        for _, weight in layer.roles():
            weights[weight.name] = weight
        for block in layer.feed_forwards:
            if block.gate is not None and (bias := block.up.bias()) is not None:
                weights[bias.name] = bias
    names = aliases(model)
    found: dict[str, list[Weight]] = {}
    for weight in weights.values():
        for name in names.get(id(weight.parameter), [weight.parameter_name]):
            found.setdefault(name, []).append(weight)
    return found
