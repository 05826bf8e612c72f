"""`sparsify explain RECIPE`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.padding import Padding

from sparsify.cli import completing
from sparsify.cli.common import MOST_STEPS, Sets, guarded, parse_sets, write_picture
from sparsify.cli.console import out, styled
from sparsify.errors import PlanError
from sparsify.escaping import one_line
from sparsify.modifiers.span import ClockError
from sparsify.recipe import Recipe
from sparsify.report.timeline import draw, in_text, timeline


@guarded
def explain(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe, by path or by name.", autocompletion=completing.recipes)
    ],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, max=MOST_STEPS, help="Optimizer steps of the run in the picture.")
    ] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option("--steps-per-epoch", min=1, max=MOST_STEPS, help="Steps in an epoch.")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write the picture to a file.")] = None,
    sets: Sets = None,
) -> None:
    """Tell a recipe in plain sentences, with a picture of its timeline. No model is needed."""
    loaded = Recipe.load(recipe, **parse_sets(sets))
    try:
        found = timeline(loaded, steps, steps_per_epoch)
    except ClockError as error:
        raise PlanError(f"{recipe}: in a run of that length, {error}") from None
    console = out()
    console.print(styled((loaded.name or recipe, "bold"), "  ", loaded.summary))
    resolved = loaded.resolve()
    for stage in resolved.staged():
        if len(resolved.staged()) > 1:
            length = f", {stage.length} of the training" if stage.length else ", the rest of the training"
            console.print()
            console.print(styled("Stage ", (stage.name, "bold"), f"{length}:"))
        for modifier, name in zip(stage.modifiers, stage.names(), strict=True):
            first, *rest = modifier.explain()
            console.print(Padding(styled((name, "cyan"), ": ", first), (1, 0, 0, 0), expand=False))
            for sentence in rest:
                console.print(Padding(f"- {one_line(sentence)}", (0, 0, 0, 2), expand=False))
    if loaded.variables:
        console.print("\nWhat can be set:")
        for key, variable in loaded.variables.items():
            about = f": {variable.description}" if variable.description else ""
            console.print(Padding(f"- {one_line(f'--set {key}={variable.value}{about}')}", (0, 0, 0, 2), expand=False))
    console.print()
    for line in in_text(found):
        console.print(line)
    if png is not None:
        write_picture(png, lambda: draw(found, loaded.name or recipe))
        console.print(f"Written to {png}")
