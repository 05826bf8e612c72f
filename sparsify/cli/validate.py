"""`sparsify validate FILE…`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparsify.cli import completing
from sparsify.cli.common import BAD_INPUT, AsJson, Sets, guarded, parse_sets, print_json
from sparsify.cli.console import say
from sparsify.errors import Problem, RecipeError
from sparsify.escaping import one_line
from sparsify.recipe import Recipe


@guarded
def validate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE…", help="Recipes, by path or by name.", autocompletion=completing.recipes),
    ],
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Check recipes without a model; report every problem with its line and column."""
    values = parse_sets(sets)
    results = [_check(file, values) for file in files]
    if as_json:
        print_json(results)
    for result in results:
        for problem in result["problems"]:
            say(problem["text"], err=True)
        if result["valid"] and not as_json:
            count = f"{result['modifiers']} modifier" + ("s" if result["modifiers"] != 1 else "")
            say(f"{one_line(result['file'])}: valid, {count}, sha256 {result['sha256'][:12]}")
    if not all(result["valid"] for result in results):
        raise typer.Exit(BAD_INPUT)


def _check(file: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        recipe = Recipe.load(file, **values)
    except RecipeError as error:
        return {"file": file, "valid": False, "problems": [_plain(problem) for problem in error.problems]}
    return {
        "file": file,
        "valid": True,
        "problems": [],
        "name": recipe.name,
        "sha256": recipe.sha256,
        "modifiers": sum(len(stage.modifiers) for stage in recipe.staged()),
    }


def _plain(problem: Problem) -> dict[str, Any]:
    mark = problem.mark
    return {
        "file": mark.file if mark else None,
        "line": mark.line if mark else None,
        "column": mark.column if mark else None,
        "path": problem.path,
        "message": problem.message,
        "text": str(problem),
    }
