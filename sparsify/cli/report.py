"""`sparsify report DIR`"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sparsify.checkpoint import write_text, write_whole
from sparsify.cli.common import AsJson, guarded, print_json
from sparsify.cli.console import aside, cell, out, styled
from sparsify.density import Count
from sparsify.errors import SparsifyError
from sparsify.escaping import one_line
from sparsify.report.folder import FolderReport, read, shown
from sparsify.report.page import page

NEEDS = ("matplotlib", "safetensors", "transformers", "zstandard")

COUNTED = ("weights", "not zero", "zeros")
COLUMNS = ("counted in", *COUNTED, "what that is")


@guarded
def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of transformers, such as train's --out; or a packed file.")
    ],
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page.")] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write a picture.")] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every matrix.")] = False,
    dense: Annotated[
        Path | None,
        typer.Option("--dense", metavar="DENSE_DIR", help="The folder of the dense model, to compare with."),
    ] = None,
) -> None:
    """Count what is zero in a saved model, by tensor, role and whole; with bytes on disk and the training's curves."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise SparsifyError(f"a report needs {', '.join(missing)}: pip install 'sparsify-torch[report,transformers]'")
    found = read(directory, dense=dense)
    if html is not None:
        write_text(html, _page(found))
    if png is not None:
        write_whole(png, lambda file: file.write(found.picture().png))
    if as_json:
        print_json(found.to_dict())
        return
    console = out()
    _show(console, found, tensors)
    for written in filter(None, (html, png)):
        console.print(f"Written to {written}")


def _show(console: Console, found: FolderReport, tensors: bool) -> None:
    console.print(styled((found.title(), "bold")))
    table = Table(*COLUMNS)
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in found.densities():
        table.add_row(*row)
    console.print(table)
    if found.census.grid:
        console.print(_grid(found))
    if tensors or not found.census.grid:
        console.print(_counts(found.counts()))
    for name, value in found.facts():
        console.print(f"{cell(name):<16} {one_line(value)}")
    for note in found.notes:
        aside().print(styled(("note:", "yellow"), " ", note))


def _grid(found: FolderReport) -> Table:
    """Return zeros in percent, a row a role and a column a layer."""
    grid = found.census.grid
    layers = list(dict.fromkeys(layer for row in grid.values() for layer in row))
    table = Table("zeros in % by role", "all", *map(cell, layers))
    for column in table.columns[1:]:
        column.justify = "right"
    for role, row in grid.items():
        cells = [f"{100 * row[layer].sparsity:.1f}" if layer in row else "" for layer in layers]
        table.add_row(cell(role), f"{100 * found.census.roles[role].sparsity:.1f}", *cells)
    return table


def _counts(counts: Sequence[tuple[str, Count]]) -> Table:
    table = Table("tensor", *COUNTED)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, count in counts:
        table.add_row(cell(name), *shown(count))
    return table


def _page(found: FolderReport) -> str:
    counts = [(name, *shown(count)) for name, count in found.counts()]
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [
        (COLUMNS, found.densities()),
        (("", ""), found.facts()),
    ]
    sections = [
        ("Plan", str(found.plan) if found.plan else ""),
        ("Recipe, resolved", found.recipe.dump() if found.recipe else ""),
        ("Notes", "\n".join(found.notes)),
    ]
    lead = (
        "Zeros are counted in the saved files; a dense format stores them, so only compression makes the file smaller."
    )
    details = [(("tensor", *COUNTED), counts)]
    return page(found.title(), lead, tables, found.picture().svg, sections, details, found.structure.sections())
