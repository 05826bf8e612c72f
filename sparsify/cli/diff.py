"""`sparsify diff A B`"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sparsify.cli.common import AsJson, guarded, print_json
from sparsify.cli.console import cell, out, say
from sparsify.errors import RecipeError, SparsifyError
from sparsify.files import read_json
from sparsify.recipe import Recipe
from sparsify.recipe.library import SUFFIXES, names
from sparsify.report.difference import ABSENT, Change, Overlap, Weights, documents, together, weights
from sparsify.report.saved import Saved, find
from sparsify.report.trained import Trained, trained

What = tuple[str, Any]
"""(`recipe`, a Recipe), (`plan`, plain data) or (`checkpoint`, a Saved)."""


@guarded
def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A recipe, a plan (JSON), or a folder or (packed) file of weights.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="Another of the same kind.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two recipes, two plans, or two models: metrics, predictions and masks."""
    (kind, before), (other, after) = _read(first), _read(second)
    if kind != other:
        raise SparsifyError(f"{first} is a {kind}, {second} a {other}: only two of a kind can be compared")
    if kind == "checkpoint":
        both, found = trained(before, after), weights(before, after)
        if as_json:
            print_json({"training": None if both is None else both.to_dict(), **found.to_dict()})
            return
        if both is not None:
            _trained(both)
        _weights(found)
        return
    if kind == "recipe":
        same = before.resolve().sha256 == after.resolve().sha256
        _changes(documents(*(json.loads(r.resolve().canonical()) for r in (before, after))), as_json, same)
    else:
        _changes(documents(before, after), as_json, before == after)


def _read(name: str) -> What:
    path = Path(name)
    if path.suffix == ".json":
        return "plan", _plan(path)
    if path.suffix.lower() in SUFFIXES or (name in names() and not os.path.exists(path)):
        return "recipe", Recipe.load(name)
    if os.path.exists(path):
        saved: Saved = find(path)
        return "checkpoint", saved
    try:
        return "recipe", Recipe.load(name)
    except RecipeError as error:
        raise SparsifyError(f"{name} is neither a file, a folder nor a recipe: {error}") from None


def _plan(path: Path) -> Any:
    """Return a plan from `sparsify plan --json`, or from a report.json."""
    data = read_json(path)
    if isinstance(data, dict) and "plan" in data:
        data = data["plan"]
    if not isinstance(data, dict) or not isinstance(data.get("modifiers"), list):
        raise SparsifyError(f"{path} is no plan (`sparsify plan … --json`) and no report.json with one")
    return data


def _changes(changes: list[Change], as_json: bool, same: bool) -> None:
    if as_json:
        print_json([{"path": c.path, "before": c.before, "after": c.after} for c in changes])
        return
    if not changes:
        typer.echo("the same in everything that has consequences" if same else "no difference in what is done")
        return
    table = Table("where", "A", "B")
    for column in table.columns:
        column.overflow = "fold"
    for change in changes:
        table.add_row(*map(cell, (change.path, change.before, change.after)))
    out().print(table)


def _trained(found: Trained) -> None:
    table = Table("metric", "A", "B", "B − A")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found.table():
        table.add_row(*row)
    out().print(table)
    for line in (*([str(found.agreement)] if found.agreement else []), *found.notes):
        say(line)


def _weights(found: Weights) -> None:
    table = Table("tensor", "zeros in A", "zeros in B", "Jaccard", "by chance", "overlap", "same values")
    for column in table.columns[1:]:
        column.justify = "right"
    sparse = found.sparse()
    for overlap in sparse:
        table.add_row(*_cells(overlap))
    if sparse:
        table.add_section()
        table.add_row(*_cells(together(f"{len(sparse)} tensors with zeros", sparse)))
    rest = [overlap for overlap in found.overlaps if overlap not in sparse]
    if rest:
        table.add_row(*_cells(together(f"{len(rest)} dense tensors", rest)))
    out().print(table)
    out().print("Jaccard: kept in both ÷ kept in either. Overlap: kept in both ÷ the smaller of the two.", style="dim")
    for label, absent in (("A", found.only_before), ("B", found.only_after)):
        if absent:
            say(f"only in {label}: {_some(absent)}")
    if found.reshaped:
        say(f"of different shapes: {_some(found.reshaped)}")


def _cells(overlap: Overlap) -> tuple[str, ...]:
    zeros = [f"{1 - kept / max(overlap.elements, 1):.2%}" for kept in (overlap.kept_before, overlap.kept_after)]
    dense = overlap.kept_both == overlap.elements
    indices = [ABSENT] * 3 if dense else [f"{x:.3f}" for x in (overlap.jaccard, overlap.by_chance, overlap.overlap)]
    return cell(overlap.name), *zeros, *indices, f"{overlap.equal / max(overlap.elements, 1):.1%}"


def _some(items: tuple[str, ...]) -> str:
    return ", ".join(map(cell, items[:4])) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
