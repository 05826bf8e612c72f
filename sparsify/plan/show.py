"""A plan for people: as text, and as tables in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from sparsify.escaping import one_line
from sparsify.modifiers.plans import ModifierPlan, TensorPlan


def rows(modifier: ModifierPlan) -> list[tuple[str, ...]]:
    """Return (tensor or block, shape or groups, target, expected non-zeros) as text, the sum last."""
    if not modifier.tensors:
        return []
    named = partial(_target, unknown=modifier.unknown)
    bundles = [list(tensors) for _, tensors in groupby(modifier.tensors, lambda tensor: tensor.bundle)]
    otherwise = "competes" if modifier.nonzeros is not None else "unknown"
    lines = [_row(tensors, otherwise, named) for tensors in bundles]
    elements = sum(tensor.elements for tensor in modifier.tensors)
    targets = {tensor.target for tensor in modifier.tensors}
    if len(targets) == 1:
        target = named(targets.pop())
    else:
        target = "" if modifier.nonzeros is None else _target(1 - modifier.nonzeros / max(elements, 1))
    total = _count(modifier.nonzeros, "unknown without weights")
    what = f"{len(lines)} " + ("tensor" if len(lines) == len(modifier.tensors) else "block") + "s" * (len(lines) != 1)
    return [*lines, (what, f"{elements:,} weights", target, total)]


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


def text(headline: str, modifiers: Sequence[ModifierPlan], closing: str, notes: Sequence[str]) -> str:
    """Return a plan as text."""
    lines = [headline]
    for modifier in modifiers:
        table = rows(modifier)
        widths = [max((len(row[column]) for row in table), default=0) for column in range(4)]
        lines.append(title(modifier))
        lines += [
            "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table
        ]
    return "\n".join([*lines, *([closing] if closing else []), *(f"note: {note}" for note in notes)])


def tables(headline: str, modifiers: Sequence[ModifierPlan], closing: str, notes: Sequence[str]) -> Iterator[Any]:
    """Yield a plan as rich prints it."""
    from rich.table import Table
    from rich.text import Text

    def plain(text: str, style: str = "") -> Text:
        """Text from a model or a recipe is no markup."""
        return Text(one_line(text), style=style)

    yield plain(headline, "bold")
    for modifier in modifiers:
        lines = rows(modifier)
        if not lines:
            yield plain(title(modifier), "cyan")
            continue
        table = Table(title=plain(title(modifier)), title_justify="left", title_style="cyan")
        table.add_column("tensor or block", overflow="fold")
        for column in ("shape or groups", "target", "expected non-zeros"):
            table.add_column(column, justify="right")
        *body, total = lines
        for row in body:
            table.add_row(*map(plain, row))
        table.add_section()
        table.add_row(*map(plain, total))
        yield table
    if closing:
        yield plain(closing)
    for note in notes:
        yield Text.assemble(("note: ", "yellow"), one_line(note))


def _row(tensors: Sequence[TensorPlan], otherwise: str, named: Callable[[float | None], str]) -> tuple[str, ...]:
    """Return the row of a tensor, or of several that are pruned together."""
    first = tensors[0]
    known = [tensor.nonzeros for tensor in tensors if tensor.nonzeros is not None]
    target = named(first.target) if known else ""
    shape = "×".join(map(str, first.shape)) if len(tensors) == 1 else f"{first.groups} in {len(tensors)} tensors"
    return first.bundle, shape, target, _count(sum(known) if known else None, otherwise)


def _target(target: float | None, unknown: str = "") -> str:
    return unknown if target is None else f"{target:.2%}"


def _count(number: int | None, otherwise: str) -> str:
    return otherwise if number is None else f"{number:,}"
