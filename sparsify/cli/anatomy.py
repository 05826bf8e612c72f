"""`sparsify anatomy MODEL`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsify.anatomy import read
from sparsify.anatomy.coverage import coverage
from sparsify.anatomy.parts import DEFAULT
from sparsify.anatomy.read import inferred
from sparsify.anatomy.told import source, told
from sparsify.anatomy.unlayered import nothing
from sparsify.checkpoint import write_text
from sparsify.cli.common import AsJson, ForTask, guarded, print_json, write_picture
from sparsify.cli.console import aside, out, styled
from sparsify.errors import PlanError
from sparsify.escaping import one_line
from sparsify.pretrained import planned
from sparsify.report.portrait import draw


@guarded
def anatomy(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder with config.json, or a hub name.")],
    task: ForTask = None,
    family: Annotated[
        Path | None, typer.Option("--family", metavar="FILE", help="Write what was inferred as a family file (Python).")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write a picture.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model by role: layers, heads, neurons, and what a recipe without targets covers. Weights are not read."""
    shape, notes = planned(model, task)
    found = read(shape)
    if found is None:
        raise PlanError(f"{model}: {nothing(shape)}")
    kinds = inferred(shape) if family is not None else []
    if family is not None and not kinds:
        why = f"its families are declared ({', '.join(found.families)})" if found.layers else "it has no layers"
        raise PlanError(f"{model}: {why}; there is nothing to write")
    covered = coverage(shape, found, found.role(DEFAULT))
    if png is not None:
        write_picture(png, lambda: draw(f"{model}: default {covered}", found))
    if family is not None:
        write_text(family, source(kinds))
    data = told(shape, found)
    if as_json:
        print_json(data)
        return
    _print(data)
    console = out()
    console.print(f"targets: default {covered}")
    for note in (*notes, *data["absent"]):
        aside().print(styled(("note: ", "yellow"), note))
    for written in (family, png):
        if written is not None:
            console.print(f"Written to {one_line(str(written))}")


def _print(data: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = out()
    table = Table(title=Text(one_line(data["model"])), title_justify="left")
    for column in ("layers of", "family"):
        table.add_column(column, overflow="fold")
    for column in ("layers", "heads", "neurons", "weights"):
        table.add_column(column, justify="right")
    for stack in data["stacks"]:
        kind = f"{stack['family']} ({'inferred' if stack['inferred'] else 'declared'})"
        numbers = (str(stack["layers"]), stack["heads"], stack["neurons"], f"{stack['weights']:,}")
        table.add_row(*(Text(one_line(cell)) for cell in (stack["name"] or "(the model)", kind, *numbers)))
    console.print(table)
    roles = Table()
    roles.add_column("role")
    roles.add_column("tensors", justify="right")
    roles.add_column("weights", justify="right")
    roles.add_column("")
    most = max((role["weights"] for role in data["roles"]), default=0) or 1
    for role in data["roles"]:
        bar = "█" * max(round(24 * role["weights"] / most), 1)
        roles.add_row(role["role"], str(role["tensors"]), f"{role['weights']:,}", bar)
    console.print(roles)
    for doubt in data["doubts"]:
        names = ", ".join(doubt["blocks"][:2]) + (
            f" and {len(doubt['blocks']) - 2} more" if len(doubt["blocks"]) > 2 else ""
        )
        console.print(styled(("not offered: ", "yellow"), f"{doubt['units']} of {names}: {doubt['why']}"))
