"""`sparsify plan RECIPE --model NAME_OR_DIR`"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
import typer

from sparsify.cli import completing
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

InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="N,C,H,W",
        help="What the model's forward takes, such as 2,3,64,64; for coupled channels, where it cannot be guessed.",
    ),
]
MOST_ELEMENTS = 1 << 26


@guarded
def plan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe, by path or by name.", autocompletion=completing.recipes)
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="NAME_OR_DIR", help="A transformers model; only its config is read."),
    ],
    steps: Steps = None,
    steps_per_epoch: PerEpoch = None,
    epochs: Epochs = None,
    task: ForTask = None,
    labels: Labels = None,
    input_shape: InputShape = None,
    sets: Sets = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor, not roles and layers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe will do to a model, before anything is trained; weights are not read."""
    check_labels(task, labels)
    loaded = Recipe.load(recipe, **parse_sets(sets))
    shape, notes = planned(model, task, labels)
    try:
        made = Plan.of(
            loaded,
            shape,
            total_steps=steps,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            example_inputs=_example(input_shape),
        )
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


def _example(shape: str | None) -> torch.Tensor | None:
    """Return random inputs of a shape that was written. A usage error exits with 2."""
    if shape is None:
        return None
    sides = [int(side) if side.strip().isdecimal() else 0 for side in shape.split(",")]
    if min(sides) < 1 or math.prod(sides) > MOST_ELEMENTS:
        raise typer.BadParameter(f"expected whole numbers such as 2,3,64,64, got {shape!r}", param_hint="--input-shape")
    return torch.randn(sides, generator=torch.Generator().manual_seed(0))
