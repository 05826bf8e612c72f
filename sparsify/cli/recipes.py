"""`sparsify recipes list|show`"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.syntax import Syntax
from rich.table import Table

from sparsify.cli import completing
from sparsify.cli.common import EPILOG, AsJson, Sets, guarded, parse_sets, print_json
from sparsify.cli.console import cell, out, say
from sparsify.errors import RecipeError
from sparsify.recipe import Recipe
from sparsify.recipe.library import find, means_a_recipe, names
from sparsify.recipe.reader import source

app = typer.Typer(no_args_is_help=True, help="The recipes that can be found by name.", epilog=EPILOG)


@app.command("list", epilog=EPILOG)
@guarded
def list_(as_json: AsJson = False) -> None:
    """List the recipes along the search path: working folder, $SPARSIFY_RECIPES, packages, built in."""
    rows = [row for name, (label, path) in names().items() if (row := _row(name, label, str(path)))]
    if as_json:
        print_json(rows)
        return
    table = Table("name", "from", "what it does")
    for row in rows:
        table.add_row(*(cell(row[key]) for key in ("name", "from", "summary")))
    out().print(table)


def _row(name: str, label: str, path: str) -> dict[str, Any] | None:
    """Describe a recipe; files that are none, as YAML and Markdown of other programs, are passed over."""
    try:
        recipe = Recipe.load(path)
    except RecipeError:
        if not means_a_recipe(path):
            return None
        return {"name": name, "from": label, "path": path, "summary": "not valid: see `sparsify validate`"}
    return {"name": name, "from": label, "path": path, "summary": recipe.summary, "sha256": recipe.sha256}


@app.command("show", epilog=EPILOG)
@guarded
def show(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe, by name or by path.", autocompletion=completing.recipes)
    ],
    resolved: Annotated[bool, typer.Option("--resolved", help="With variables filled in and every default.")] = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Print a recipe as it stands, or resolved."""
    values = parse_sets(sets)
    if values or resolved or as_json:
        recipe = Recipe.load(name, **values)
        recipe = recipe.resolve() if resolved else recipe
        if as_json:
            print_json({**recipe.source(), "sha256": recipe.sha256})
            return
        text = recipe.dump()
    else:
        text = source(find(name))
    if sys.stdout.isatty():
        out().print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        say(text, nl=not text.endswith("\n"))
