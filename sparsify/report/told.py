"""What lives and what died, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparsify.report.living import KINDS, Kind, Living, Units

MOST_LAYERS = 48
"""Numbers of one sentence; the JSON has all."""


def sentences(living: Living) -> list[tuple[str, str]]:
    """Return (what, how much of it lives) for each kind of which something died; and the layers with nothing left."""
    found: list[tuple[str, str]] = []
    for kind in KINDS:
        units = living.of(kind)
        if living.told(kind):
            found.append((kind, _alive(living, units)))
            if any(each.groups for each in units):
                found.append(("key/value heads", _groups(living, units)))
    for kind in KINDS:
        if bare := _bare(living, kind):
            found.append((f"no {kind} left in", _layers(bare)))
    if empty := living.empty_layers():
        found.append(("nothing left in", _layers(empty)))
    return found


def _alive(living: Living, units: Sequence[Units]) -> str:
    alive, before = sum(each.alive for each in units), sum(each.before for each in units)
    each_layer = _per_layer(living, units, [each.alive for each in units])
    if not (gone := sum(each.gone for each in units)):
        return f"{alive:,} of {before:,} alive ({each_layer})"
    return f"{alive:,} of {before:,} left, {gone:,} were taken out by compaction ({each_layer})"


def _groups(living: Living, units: Sequence[Units]) -> str:
    grouped = [each for each in units if each.groups]
    alive = [each.groups - len(each.dead_groups()) for each in grouped]
    total = sum(each.groups for each in grouped)
    there = [replace(each, gone=0) for each in grouped]  # how many there were before compaction is known of heads alone
    return f"{sum(alive):,} of {total:,} alive ({_per_layer(living, there, alive)})"


def _per_layer(living: Living, units: Sequence[Units], alive: Sequence[int]) -> str:
    """Return the living units of every layer, stack by stack; a dash where it has none of the kind, dead or alive.

    Where some are gone from the file, with how many there were.
    """
    counts: dict[str, int] = {}
    before: dict[str, int] = {}
    for each, count in zip(units, alive, strict=True):
        counts[each.layer] = counts.get(each.layer, 0) + count
        before[each.layer] = before.get(each.layer, 0) + each.before
    gone = any(each.gone for each in units)
    stacks: dict[str, dict[str, None]] = {each.stack: {} for each in units}
    for each in living.units:
        stacks.get(each.stack, {})[each.layer] = None
    most = max(MOST_LAYERS // max(len(stacks), 1), 4)
    rows = []
    for stack, layers in list(stacks.items())[:MOST_LAYERS]:
        shown = [f"{counts.get(layer, '–')}" for layer in list(layers)[:most]]
        if gone:
            shown = [f"{count} of {before.get(layer, '–')}" for count, layer in zip(shown, layers, strict=False)]
        joined = (", " if gone else " ").join(shown)
        rows.append(f"{f'{stack}: ' if stack else ''}{joined}{' …' if len(layers) > most else ''}")
    return f"per layer: {'; '.join(rows)}"


def _bare(living: Living, kind: Kind) -> list[str]:
    """Return the layers that had units of a kind and have none left, but for those that have nothing left at all."""
    alive: dict[str, int] = {}
    for each in living.of(kind):
        alive[each.layer] = alive.get(each.layer, 0) + each.alive
    empty = set(living.empty_layers())
    return [layer for layer, count in alive.items() if not count and layer not in empty]


def _layers(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - MOST_LAYERS} more" if len(layers) > MOST_LAYERS else ""
    return f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(layers[:MOST_LAYERS])}{more}"
