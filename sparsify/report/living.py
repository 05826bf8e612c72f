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

    gone: int = 0
    """How many more there were before compaction; they are not in the file."""

    @property
    def alive(self) -> int:
        """How many live."""
        return self.total - len(self.dead)

    @property
    def before(self) -> int:
        """How many there were: those of the file, and those that are gone."""
        return self.total + self.gone

    def dead_groups(self) -> tuple[int, ...]:
        """Return which key and value heads serve dead heads only."""
        size, gone = self.total // max(self.groups, 1), set(self.dead)
        return tuple(g for g in range(self.groups) if all(g * size + head in gone for head in range(size)))

    def to_dict(self) -> dict[str, Any]:
        """Return counts as plain data; of heads, which are dead."""
        data: dict[str, Any] = {"layer": self.layer, "block": self.block, "alive": self.alive, "total": self.total}
        if self.gone:
            data["before"] = self.before
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
        """Whether there is something to tell: some are dead or gone, or the layers of a stack differ in width."""
        units = self.of(kind)
        widths: dict[tuple[str, str], set[int]] = {}
        for each in units if kind != "channels" else ():
            widths.setdefault((each.stack, each.block), set()).add(each.total)
        return any(each.dead or each.gone for each in units) or any(len(totals) > 1 for totals in widths.values())

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
                more = {"before": sum(each.before for each in units)} if any(each.gone for each in units) else {}
                data[kind] = {"alive": alive, "total": total, **more, "blocks": [each.to_dict() for each in units]}
        return {**data, "empty_layers": self.empty_layers()} if data else {}


def living(anatomy: Anatomy, traces: Mapping[str, Trace], widest: Anatomy | None = None) -> Living:
    """Return what lives, by the traces of a model's matrices; blocks of which a trace lacks, and doubted ones, lack.

    `widest` is the anatomy of the model before compaction, where that is known.
    """
    labels, short = layer_labels(anatomy.layers), short_stacks(layer.stack for layer in anatomy.layers)
    were = {layer.name: _counts(layer) for layer in widest.layers} if widest is not None else {}
    found = []
    for layer in anatomy.layers:
        place, before = (short[layer.stack], labels[layer.name]), were.get(layer.name, {})
        for kind, name, block, alive, groups in _blocks(layer, traces):
            dead = tuple((~alive).nonzero().flatten().tolist())
            gone = max(before[name][2] - len(alive), 0) if name in before else 0
            found.append(Units(kind, *place, block, len(alive), dead, groups, gone))
        there = _counts(layer)
        empty = [each for name, each in before.items() if name not in there]
        found += [Units(kind, *place, block, 0, (), 0, count) for kind, block, count in empty]
    return Living(tuple(found))


def _counts(layer: Layer) -> dict[str, tuple[Kind, str, int]]:
    """Return (kind, block, heads or neurons) of a layer's blocks, by the name of their last matrix.

    One of which compaction has left nothing is no block any more.
    """
    found: dict[str, tuple[Kind, str, int]] = {}
    for name, attention in zip(block_labels(layer, layer.attentions), layer.attentions, strict=True):
        found[attention.output.name] = "heads", name, attention.heads
    for name, block in zip(block_labels(layer, layer.feed_forwards), layer.feed_forwards, strict=True):
        found[block.down.name] = "neurons", name, block.neurons
    return found


def _blocks(layer: Layer, traces: Mapping[str, Trace]) -> Iterator[tuple[Kind, str, str, Tensor, int]]:
    """Yield (kind, its last matrix, block, which of its units live, key and value heads) of a layer."""
    mask = mask_of(traces)

    def there(block: Attention | FeedForward) -> bool:
        return not block.doubt and all(weight.name in traces for _, weight in block.roles())

    for name, attention in zip(block_labels(layer, layer.attentions), layer.attentions, strict=True):
        if there(attention):
            _, alive, _ = living_heads(attention, mask)[-1]
            groups = attention.groups if attention.groups < attention.heads else 0
            yield "heads", attention.output.name, name, alive, groups
    for name, block in zip(block_labels(layer, layer.feed_forwards), layer.feed_forwards, strict=True):
        if there(block):
            _, alive, _ = living_neurons(block, mask)[-1]
            bias = block.up.bias()
            known = bias is not None and bias.name in traces
            yield "neurons", block.down.name, name, alive | kept_by_bias(block, mask) if known else alive, 0
    for role, weight in layer.others:
        if weight.convolution and weight.name in traces:
            label = role or weight.name.removeprefix(f"{layer.name}.")
            yield "channels", weight.name, label, traces[weight.name].rows, 0
