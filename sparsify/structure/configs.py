"""The configuration of a model that loses layers: counts, lists with an entry for each layer, numbers of layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from sparsify.anatomy.parts import Layer

OWN = "num_hidden_layers"
"""What configurations call the number of their layers, or map to their own word for it."""

OTHERS = ("num_layers", "n_layers", "n_layer", "depth", "depths")
"""What else they call it, in families that nobody has declared."""

NUMBERED = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "global_attn_indexes")
"""Lists of numbers of layers."""

UP_TO = ("first_k_dense_replace", "max_window_layers", "num_dense_layers")
"""How many of the first layers are of one kind."""

REFUSED = {
    "num_kv_shared_layers": "its last layers use keys and values of earlier ones",
    "num_nextn_predict_layers": "layers that predict further tokens follow its last one",
}
"""What no rule can follow."""

NO_LAYERS = re.compile(
    r".*(_token_ids?|_sizes?|_mean|_std|_features|_indices|_names|_kernels?|_strides?|_dims?|_embds\w*|_shapes?|_att_type"
    r"|architectures|labels?)|(axial|conv|tdnn)_.*"
)
"""Lists that have as many entries as there are layers by chance only."""


def shorten(model: nn.Module, layers: Sequence[Layer], kept: Sequence[int]) -> bool:
    """Have the configurations of a model say that only these layers of a stack are left; return whether any did.

    `layers` are those of the stack before. Configurations are changed in place.
    """
    found = list(configs(model, container_of(layers[0])))
    changed = False
    for place, config in enumerate(found):
        for fields in (_by_side(layers[0]), (*layers[0].depths, *((OWN,) if place else ())), _likely(layers[0])):
            counted = [name for name in dict.fromkeys(fields) if _set_count(config, name, layers, kept)]
            if counted:
                break
        changed = changed or bool(counted)
        if counted and isinstance(getattr(config, counted[0]), int):
            _follow(config, len(layers), kept)
            _follow_stages(config, len(layers), kept)
    return changed


def _by_side(layer: Layer) -> list[str]:
    """Return fields that hold the layers of one side only, in a family that nobody has declared."""
    sides = [side for side in ("encoder", "decoder") if layer.inferred and side in layer.stack.split(".")]
    return [name for side in sides for name in (f"{side}_layers", f"num_{side}_layers")]


def _likely(layer: Layer) -> tuple[str, ...]:
    """Return fields that may hold the layers of a family that nobody has declared."""
    return OTHERS if layer.inferred else ()


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


def is_configured(model: Any) -> bool:
    """Whether a model is saved with a configuration, as those of transformers are."""
    config = vars(model).get("config")
    return callable(getattr(model, "save_pretrained", None)) and callable(getattr(config, "to_dict", None))


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
        try:
            setattr(config, name, len(kept))
        except NotImplementedError:  # ProphetNet computes it from the two sides
            return False
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
    if isinstance(getattr(config, "attention_types", None), list) and hasattr(config, "attention_layers"):
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]  # GPT-Neo


def _follow_stages(config: Any, layers: int, kept: Sequence[int]) -> None:
    """Have a backbone, which has a stage after every layer, hand out what the same layers, or those before, make.

    Where two stages would become one nothing is changed: no model can be made of such a configuration.
    """
    stages, places = getattr(config, "stage_names", None), getattr(config, "_out_indices", None)
    if not isinstance(stages, list) or len(stages) != layers + 1 or not isinstance(places, (list, tuple)):
        return
    left = [sum(number < place % len(stages) for number in kept) for place in places]
    if len(set(left)) == len(left):
        config.stage_names = stages[: len(kept) + 1]
        config._out_indices, config._out_features = left, [stages[place] for place in left]
