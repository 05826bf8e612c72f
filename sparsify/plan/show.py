"""A plan for people: by role and layer, or tensor by tensor; as text, and as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sparsify.escaping import one_line
from sparsify.modifiers.plans import ModifierPlan, TensorPlan
from sparsify.plan.places import Places, Spot, pattern, ranges, spot

Tensors = Sequence[TensorPlan]
FACTS = ("shape or groups", "target", "expected non-zeros")
SHARED = "Rows without a target share one budget: which of their weights stay is decided by the scores during training."


@dataclass(frozen=True)
class Shown:
    """How a plan is shown: what is alike in all layers in one row, by its place in the model; or `each` tensor."""

    places: Places
    each: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the columns; the last three are facts."""
        return (
            "tensor or block" if self.each else "role or name",
            *(() if self.each else ("layers", "tensors")),
            *FACTS,
        )

    def rows(self, modifier: ModifierPlan) -> list[tuple[str, ...]]:
        """Return rows of text, the sum last; none where a modifier has no tensors."""
        bundles = [tuple(tensors) for _, tensors in groupby(modifier.tensors, lambda tensor: tensor.bundle)]
        if not bundles:
            return []
        lines: list[tuple[str, ...]]
        if self.each:
            lines = [(bundle[0].bundle, *_facts([bundle], modifier)) for bundle in bundles]
        else:
            lines = [self._row(alike, modifier) for alike in self._alike(bundles)]
        blank = [""] * (len(self.columns) - len(FACTS) - 1)
        blocks = len(bundles) < len(modifier.tensors)
        return [*lines, (_counted(len(bundles), "block" if blocks else "tensor"), *blank, *_sum(modifier))]

    def _alike(self, bundles: Sequence[Tensors]) -> list[list[Tensors]]:
        """Return bundles of one role, stack, shape and target together, in the order of the first of each."""
        found: dict[Any, list[Tensors]] = {}
        for bundle in bundles:
            place, first = self._spot(bundle), bundle[0]
            key = (place.what, place.stack, _shape(bundle), len(bundle), first.target, first.nonzeros is None)
            found.setdefault(key, []).append(bundle)
        return list(found.values())

    def _row(self, alike: Sequence[Tensors], modifier: ModifierPlan) -> tuple[str, ...]:
        place = self._spot(alike[0])
        count = sum(map(len, alike))
        what = alike[0][0].bundle if count == 1 and place.what == pattern(alike[0][0].bundle) else place.what
        if place.stack and len({each.stack for many in self.places.values() for each in many}) > 1:
            what += f" ({place.stack})"
        layers = ranges(layer for bundle in alike for layer in self._spot(bundle).layers)
        tensors = f"{count} in {_counted(len(alike), 'block')}" if count > len(alike) else str(count)
        return what, layers, tensors, *_facts(alike, modifier)

    def _spot(self, bundle: Tensors) -> Spot:
        return spot([tensor.name for tensor in bundle], self.places)


def title(modifier: ModifierPlan) -> str:
    """Return one line about a modifier."""
    window = modifier.window
    facts = ", ".join(f"{key} {value}" for key, value in modifier.facts.items())
    when = f"step {window.begin}"
    if not modifier.tensors:
        when = f"steps {window.begin} to {window.end}"
    elif window.end > window.begin:
        when = f"steps {window.begin} to {window.end}, every {window.every} ({window.count()} updates)"
    return f"{modifier.key}: {facts}; {modifier.when or when}"


def text(headline: str, modifiers: Sequence[ModifierPlan], closing: str, notes: Sequence[str], shown: Shown) -> str:
    """Return a plan as text."""
    lines = [headline]
    for modifier in modifiers:
        table = shown.rows(modifier)
        if table and not shown.each:
            table = [shown.columns, *table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append(title(modifier))
        lines += [
            "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        lines += [f"  {SHARED}"] * _shares(modifier)
    return "\n".join([*lines, *([closing] if closing else []), *(f"note: {note}" for note in notes)])


def tables(
    headline: str, modifiers: Sequence[ModifierPlan], closing: str, notes: Sequence[str], shown: Shown
) -> Iterator[Any]:
    """Yield a plan as rich prints it."""
    from rich.table import Table
    from rich.text import Text

    def plain(text: str, style: str = "") -> Text:
        """Text from a model or a recipe is no markup."""
        return Text(one_line(text), style=style)

    yield plain(headline, "bold")
    for modifier in modifiers:
        lines = shown.rows(modifier)
        if not lines:
            yield plain(title(modifier), "cyan")
            continue
        table = Table(title=plain(title(modifier)), title_justify="left", title_style="cyan")
        name, *others = shown.columns
        table.add_column(name, overflow="fold")
        for column in others:
            table.add_column(column, justify="right")
        *body, total = lines
        for row in body:
            table.add_row(*map(plain, row))
        table.add_section()
        table.add_row(*map(plain, total))
        yield table
        if _shares(modifier):
            yield plain(SHARED, "dim")
    if closing:
        yield plain(closing)
    for note in notes:
        yield Text.assemble(("note: ", "yellow"), one_line(note))


def _facts(bundles: Sequence[Tensors], modifier: ModifierPlan) -> tuple[str, str, str]:
    """Return shape, target and expected non-zeros of bundles that are alike."""
    tensors = [tensor for bundle in bundles for tensor in bundle]
    known = [tensor.nonzeros for tensor in tensors if tensor.nonzeros is not None]
    target = _target(tensors[0].target, modifier) if known else ""
    otherwise = "" if modifier.nonzeros is not None else "unknown"
    return _shape(bundles[0]), target, _count(sum(known) if known else None, otherwise)


def _shares(modifier: ModifierPlan) -> bool:
    """Whether tensors share a budget, so that no row can say what is left of them."""
    return modifier.nonzeros is not None and any(tensor.nonzeros is None for tensor in modifier.tensors)


def _sum(modifier: ModifierPlan) -> tuple[str, str, str]:
    """Return the facts of all tensors together."""
    elements = sum(tensor.elements for tensor in modifier.tensors)
    targets = {tensor.target for tensor in modifier.tensors}
    if len(targets) == 1:
        target = _target(targets.pop(), modifier)
    else:
        target = "" if modifier.nonzeros is None else f"{1 - modifier.nonzeros / max(elements, 1):.2%}"
    return f"{elements:,} weights", target, _count(modifier.nonzeros, "unknown without weights")


def _shape(bundle: Tensors) -> str:
    first = bundle[0]
    return "×".join(map(str, first.shape)) if len(bundle) == 1 else f"{first.groups} in {len(bundle)} tensors"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _target(target: float | None, modifier: ModifierPlan) -> str:
    return modifier.unknown if target is None else f"{target:.2%}"


def _count(number: int | None, otherwise: str) -> str:
    return otherwise if number is None else f"{number:,}"
