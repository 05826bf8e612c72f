"""Layers leave a model: lists are shortened, layers are numbered anew, counts and configurations say so."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsify.anatomy import Anatomy, Layer, read
from sparsify.anatomy.building import ORIGIN
from sparsify.structure.change import Dropped
from sparsify.structure.configs import container_of, shorten

NUMBERS = ("layer_idx", "layer_id", "layer_index", "layer_number", "layer_num", "block_idx")
"""Attributes of a layer, or of what is in it, that hold its number."""

LISTS = ("attention_layers",)
"""Attributes of what is in a layer that have an entry for every layer (GPT-Neo)."""

COUNTS = ("num_layers", "num_hidden_layers", "n_layers", "n_layer", "depth")
"""Attributes of what holds a stack in which its number of layers is kept."""


def stacks(anatomy: Anatomy | None) -> dict[str, list[Layer]]:
    """Return the layers of every stack by its name, in order."""
    found: dict[str, list[Layer]] = {}
    for layer in anatomy.layers if anatomy else ():
        found.setdefault(layer.stack, []).append(layer)
    return found


def drop(model: nn.Module, change: Dropped) -> list[nn.Parameter]:
    """Remove the layers of a stack that do not stay, in place; return the parameters that are not the model's any more.

    The change must be one that was found possible.
    """
    layers = stacks(read(model))[change.stack]
    before = dict.fromkeys(model.parameters())
    homes = dict.fromkeys(container_of(layer) for layer in layers)
    for layer in layers:
        setattr(model.get_submodule(layer.name), ORIGIN, layer.origin)
    for home in homes:
        mine = [layer for layer in layers if container_of(layer) == home]
        _shorten(model, home, mine, [layer for layer in mine if layer.index in change.kept])
    shorten(model, layers, change.kept)
    after = {id(parameter) for parameter in model.parameters()}
    return [parameter for parameter in before if id(parameter) not in after]


def parameters_lost(model: nn.Module, layers: Sequence[Layer], kept: Sequence[int]) -> int:
    """Return how many parameters a model loses with the other layers; what they share with the rest stays."""
    gone = tuple(f"{layer.name}." for layer in layers if layer.index not in kept)
    staying = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if not name.startswith(gone)}
    return sum(p.numel() for p in model.parameters() if id(p) not in staying)


def _shorten(model: nn.Module, home: str, layers: Sequence[Layer], staying: Sequence[Layer]) -> None:
    """Leave only some layers in a container, and number its children anew."""
    container = model.get_submodule(home)
    names = {layer.name.rpartition(".")[2] for layer in staying}
    gone = {layer.name.rpartition(".")[2] for layer in layers} - names
    children = [(name, child) for name, child in container._modules.items() if name not in gone]
    container._modules.clear()
    for number, (name, child) in enumerate(children):
        container._modules[str(number)] = child
        if name in names and child is not None:
            _renumber(child, int(name), number)
            _shorten_lists(child, len(layers), [layer.index for layer in staying])
    above = model.get_submodule(home.rpartition(".")[0])
    for name in COUNTS:
        if vars(above).get(name) == len(layers):
            setattr(above, name, len(staying))


def _renumber(layer: nn.Module, old: int, new: int) -> None:
    for module in layer.modules():
        for name in NUMBERS:
            if type(vars(module).get(name)) is int and vars(module)[name] == old:
                setattr(module, name, new)


def _shorten_lists(layer: nn.Module, layers: int, kept: Sequence[int]) -> None:
    """Have the lists that a layer has copied from the configuration follow it."""
    for module in layer.modules():
        for name in LISTS:
            value = vars(module).get(name)
            if isinstance(value, list) and len(value) == layers:
                setattr(module, name, [value[number] for number in kept])
