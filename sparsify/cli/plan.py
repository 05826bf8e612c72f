"""`sparsify plan RECIPE --model NAME_OR_DIR`"""

from __future__ import annotations

from typing import Annotated

import typer

from sparsify.cli.common import MOST_STEPS, AsJson, Sets, guarded, parse_sets, print_json
from sparsify.cli.console import out
from sparsify.plan import Plan
from sparsify.pretrained import skeleton
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
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe will do to a model, tensor by tensor, before anything is trained."""
    loaded = Recipe.load(recipe, **parse_sets(sets))
    made = Plan.of(loaded, skeleton(model), total_steps=steps, steps_per_epoch=steps_per_epoch, epochs=epochs)
    if as_json:
        print_json(made.to_dict())
    else:
        out().print(made)
