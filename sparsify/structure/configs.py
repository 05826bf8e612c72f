"""The configuration of a model that loses layers: counts, lists with an entry for each layer, numbers of layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from sparsify.anatomy.parts import Layer

OWN = "num_hidden_layers"
"""What configurations call the number of their layers, or map to their own word for it."""

NUMBERED = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "global_attn_indexes")
"""Lists of numbers of layers."""

UP_TO = ("first_k_dense_replace", "max_window_layers", "num_dense_layers")
"""How many of the first layers are of one kind."""

REFUSED = {
    "num_kv_shared_layers": "its last layers use keys and values of earlier ones",
    "num_nextn_predict_layers": "layers that predict further tokens follow its last one",
}
"""What no rule can follow."""

NO_LAYERS = re.compile(r".*(_token_ids?|_sizes?|_mean|_std|_features|_indices|_names|architectures|labels?)")
"""Lists that have as many entries as there are layers by chance only."""


def shorten(model: nn.Module, layers: Sequence[Layer], kept: Sequence[int]) -> bool:
    """Have the configurations of a model say that only these layers of a stack are left; return whether any did.

    `layers` are those of the stack before. Configurations are changed in place.
    """
    found = list(configs(model, container_of(layers[0])))
    changed = False
    for place, config in enumerate(found):
        fields = dict.fromkeys((*layers[0].depths, *((OWN,) if place else ())))
        counted = [name for name in fields if _set_count(config, name, layers, kept)]
        changed = changed or bool(counted)
        if counted and isinstance(getattr(config, counted[0]), int):
            _follow(config, len(layers), kept)
    return changed


def obstacle(model: nn.Module, layers: Sequence[Layer]) -> str | None:
    """Return why the configuration cannot follow the removal of layers, or None."""
    for config in configs(model, container_of(layers[0])):
        for name, why in REFUSED.items():
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                return f"{name} is {value}: {why}"
    return None


def container_of(layer: Layer) -> str:
    """Return the name of the module that a layer is a child of."""
    return layer.name.rpartition(".")[0]


def configs(model: nn.Module, container: str) -> Iterator[Any]:
    """Yield the configurations of the modules from the model down to a container and in it, each once, outermost first.

    An encoder and a decoder may each have a copy of their own.
    """
    parts = container.split(".") if container else []
    above = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    seen = set()
    for module in (*above, *above[-1].modules()):
        config = vars(module).get("config")
        if callable(getattr(config, "to_dict", None)) and id(config) not in seen:
            seen.add(id(config))
            yield config


def _set_count(config: Any, name: str, layers: Sequence[Layer], kept: Sequence[int]) -> bool:
    """Set a field that holds the number of layers, or those of each container; return whether it did hold it."""
    value = getattr(config, name, None)
    if isinstance(value, int) and value == len(layers):
        setattr(config, name, len(kept))
        return True
    homes = list(dict.fromkeys(container_of(layer) for layer in layers))
    if isinstance(value, (list, tuple)):
        there = [sum(container_of(layer) == home for layer in layers) for home in homes]
        left = [sum(container_of(layers[index]) == home for index in kept) for home in homes]
        if list(value) == there:
            setattr(config, name, type(value)(left))
            return True
    return False


def _follow(config: Any, layers: int, kept: Sequence[int]) -> None:
    """Have lists with an entry for each layer, and fields with numbers of layers, follow."""
    for name, value in list(vars(config).items()):
        if name in NUMBERED and isinstance(value, (list, tuple)):
            setattr(config, name, type(value)(kept.index(number) for number in value if number in kept))
        elif name in UP_TO and isinstance(value, int) and value < layers:
            setattr(config, name, sum(number < value for number in kept))
        elif isinstance(value, (list, tuple)) and len(value) == layers and not NO_LAYERS.fullmatch(name):
            setattr(config, name, type(value)(value[number] for number in kept))
