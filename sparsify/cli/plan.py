"""`sparsify plan RECIPE --model NAME_OR_DIR`"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from sparsify.cli.common import MOST_STEPS, AsJson, ForTask, Labels, Sets, check_labels, guarded, parse_sets, print_json
from sparsify.cli.console import out
from sparsify.errors import PlanError, Problem
from sparsify.heads import headless
from sparsify.plan import Plan
from sparsify.pretrained import planned
from sparsify.recipe import Recipe

Steps = Annotated[int | None, typer.Option("--steps", min=1, max=MOST_STEPS, help="Optimizer steps in all.")]
PerEpoch = Annotated[
    int | None, typer.Option("--steps-per-epoch", min=1, max=MOST_STEPS, help="Optimizer steps in an epoch.")
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, max=10**6, help="With --steps-per-epoch, instead of --steps.")
]


@guarded
def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, by path or by name.")],
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME_OR_DIR", help="A transformers model; only its config is read."),
    ],
    steps: Steps = None,
    steps_per_epoch: PerEpoch = None,
    epochs: Epochs = None,
    task: ForTask = None,
    labels: Labels = None,
    sets: Sets = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor, not roles and layers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe will do to a model, before anything is trained; weights are not read."""
    check_labels(task, labels)
    loaded = Recipe.load(recipe, **parse_sets(sets))
    shape, notes = planned(model, task, labels)
    try:
        made = Plan.of(loaded, shape, total_steps=steps, steps_per_epoch=steps_per_epoch, epochs=epochs)
    except PlanError as error:
        if task is None and (why := headless(shape)):
            raise PlanError([*error.problems, Problem(why)]) from None
        raise
    made = replace(made, notes=(*notes, *made.notes))
    if as_json:
        print_json(made.to_dict())
    else:
        for part in made.parts(tensors=tensors):
            out().print(part)
