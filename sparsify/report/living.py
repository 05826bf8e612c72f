"""Which heads, neurons and channels of a model live, layer by layer, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from sparsify.anatomy import Anatomy, Attention, FeedForward, Layer
from sparsify.report.labels import block_labels, layer_labels, short_stacks
from sparsify.report.trace import Trace, mask_of
from sparsify.structure.units import kept_by_bias, living_heads, living_neurons

Kind = Literal["heads", "neurons", "channels"]
KINDS: tuple[Kind, ...] = ("heads", "neurons", "channels")


@dataclass(frozen=True)
class Units:
    """The heads, the neurons or the channels of one block."""

    kind: Kind
    stack: str
    """Empty for the only one."""

    layer: str
    """Its number, with its stack before it where there are several."""

    block: str
    """Empty for the only one of its layer; the role of a convolution."""

    total: int
    dead: tuple[int, ...]
    """Which are dead, by number."""

    groups: int = 0
    """Key and value heads, each for as many heads in order; 0 where every head has its own, and for other kinds."""

    @property
    def alive(self) -> int:
        """How many live."""
        return self.total - len(self.dead)

    def dead_groups(self) -> tuple[int, ...]:
        """Return which key and value heads serve dead heads only."""
        size, gone = self.total // max(self.groups, 1), set(self.dead)
        return tuple(g for g in range(self.groups) if all(g * size + head in gone for head in range(size)))

    def to_dict(self) -> dict[str, Any]:
        """Return counts as plain data; of heads, which are dead."""
        data: dict[str, Any] = {"layer": self.layer, "block": self.block, "alive": self.alive, "total": self.total}
        if self.kind == "heads":
            data["dead"] = list(self.dead)
        if self.groups:
            data |= {"groups": self.groups, "dead_groups": list(self.dead_groups())}
        return data


@dataclass(frozen=True)
class Living:
    """All units of a model that could be read, in its order. Empty where its anatomy is not known."""

    units: tuple[Units, ...] = ()

    def of(self, kind: Kind) -> list[Units]:
        """Return the units of a kind."""
        return [units for units in self.units if units.kind == kind]

    def told(self, kind: Kind) -> bool:
        """Whether there is something to tell: some are dead, or the layers of a stack differ in width."""
        units = self.of(kind)
        widths: dict[tuple[str, str], set[int]] = {}
        for each in units if kind != "channels" else ():
            widths.setdefault((each.stack, each.block), set()).add(each.total)
        return any(each.dead for each in units) or any(len(totals) > 1 for totals in widths.values())

    def empty_layers(self) -> list[str]:
        """Return the layers of which no head, no neuron and no channel lives."""
        alive: dict[str, int] = {}
        for each in self.units:
            alive[each.layer] = alive.get(each.layer, 0) + each.alive
        return [layer for layer, count in alive.items() if not count]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        data: dict[str, Any] = {}
        for kind in KINDS:
            if units := self.of(kind):
                alive, total = sum(each.alive for each in units), sum(each.total for each in units)
                data[kind] = {"alive": alive, "total": total, "blocks": [each.to_dict() for each in units]}
        return {**data, "empty_layers": self.empty_layers()} if data else {}


def living(anatomy: Anatomy, traces: Mapping[str, Trace]) -> Living:
    """Return what lives, by the traces of a model's matrices; blocks of which a trace lacks, and doubted ones, lack."""
    labels, short = layer_labels(anatomy.layers), short_stacks(layer.stack for layer in anatomy.layers)
    found = []
    for layer in anatomy.layers:
        for kind, block, alive, groups in _blocks(layer, traces):
            dead = tuple((~alive).nonzero().flatten().tolist())
            found.append(Units(kind, short[layer.stack], labels[layer.name], block, len(alive), dead, groups))
    return Living(tuple(found))


def _blocks(layer: Layer, traces: Mapping[str, Trace]) -> Iterator[tuple[Kind, str, Tensor, int]]:
    """Yield (kind, block, which of its units live, key and value heads) of a layer."""
    mask = mask_of(traces)

    def there(block: Attention | FeedForward) -> bool:
        return not block.doubt and all(weight.name in traces for _, weight in block.roles())

    for name, attention in zip(block_labels(layer, layer.attentions), layer.attentions, strict=True):
        if there(attention):
            _, alive, _ = living_heads(attention, mask)[-1]
            yield "heads", name, alive, attention.groups if attention.groups < attention.heads else 0
    for name, block in zip(block_labels(layer, layer.feed_forwards), layer.feed_forwards, strict=True):
        if there(block):
            _, alive, _ = living_neurons(block, mask)[-1]
            bias = block.up.bias()
            known = bias is not None and bias.name in traces
            yield "neurons", name, alive | kept_by_bias(block, mask) if known else alive, 0
    for role, weight in layer.others:
        if weight.convolution and weight.name in traces:
            yield "channels", role or weight.name.removeprefix(f"{layer.name}."), traces[weight.name].rows, 0
