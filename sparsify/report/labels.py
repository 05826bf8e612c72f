"""What layers and their blocks are called in reports: as short as tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sparsify.anatomy import Attention, FeedForward, Layer

Block = Attention | FeedForward


def short_stacks(stacks: Iterable[str]) -> dict[str, str]:
    """Return a name for each stack: none for the only one, else what its container lies in, or its whole name."""
    every = list(dict.fromkeys(stacks))
    if len(every) == 1:
        return {every[0]: ""}
    short = {stack: (stack.rpartition(".")[0].rpartition(".")[2] or stack) for stack in every}
    alike = Counter(short.values())
    return {stack: name if alike[name] == 1 and not name.isdecimal() else stack for stack, name in short.items()}


def layer_labels(layers: Sequence[Layer]) -> dict[str, str]:
    """Return name of a layer → its number, with its stack before it where there are several."""
    short = short_stacks(layer.stack for layer in layers)
    return {layer.name: f"{short[layer.stack]} {layer.index}".strip() for layer in layers}


def block_labels(layer: Layer, blocks: Sequence[Block]) -> list[str]:
    """Return a name for each of the blocks of one kind of a layer: none for the only one, else the end of its path."""
    if len(blocks) == 1:
        return [""]
    inside = [block.name.removeprefix(f"{layer.name}.") for block in blocks]
    ends = [name.rpartition(".")[2] for name in inside]
    alone = len(set(ends)) == len(ends) and not any(end.isdecimal() for end in ends)
    return ends if alone else inside
