"""`sparsify new`"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from sparsify import break_even
from sparsify.anatomy import read
from sparsify.checkpoint import write_text
from sparsify.cli.common import MOST_STEPS, ForTask, finite, guarded
from sparsify.cli.completing import words
from sparsify.cli.console import note, say
from sparsify.cli.fitting import Fitter
from sparsify.errors import SparsifyError, did_you_mean
from sparsify.pretrained import planned
from sparsify.recipe import Recipe
from sparsify.recipe.advice import GOALS, HARDWARE, Advice, advise

STEPS = 1000
"""The length of the training that a recipe is written for, and tried with."""


@guarded
def new(
    model: Annotated[str | None, typer.Option("--model", metavar="NAME_OR_DIR", help="The model to prune.")] = None,
    goal: Annotated[
        str | None, typer.Option("--goal", metavar="GOAL", help=f"{' or '.join(GOALS)}.", autocompletion=words(*GOALS))
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            metavar="KIND",
            help=f"Where it will run: {', '.join(HARDWARE)}.",
            autocompletion=words(*HARDWARE),
        ),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option("--sparsity", min=0, max=0.99, help="The fraction that ends at zero.")
    ] = None,
    task: ForTask = None,
    steps: Annotated[
        int,
        typer.Option("--steps", min=2, max=MOST_STEPS, help="Optimizer steps of the training."),
    ] = STEPS,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="By default NAME.yaml, here.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over an existing file.")] = False,
) -> None:
    """Write a recipe with comments for a model, a goal and a kind of hardware; asks for what is not given."""
    if sparsity is not None:
        finite(sparsity)
    model = model or _ask("The model to prune (a folder or a hub name)", "--model")
    made, notes = planned(model, task)
    goal = _one_of("--goal", goal or _ask(f"The goal ({', '.join(GOALS)})", "--goal", GOALS[0]), GOALS)
    if goal == "speed":
        hardware = hardware or _ask(f"Where it will run ({', '.join(HARDWARE)})", "--hardware", HARDWARE[0])
    hardware = _one_of("--hardware", hardware or HARDWARE[0], HARDWARE)
    text, advice = _written(model, made, goal, hardware, sparsity, steps)
    path = out_file or Path(f"{advice.name}.yaml")
    if os.path.lexists(path) and not overwrite:
        raise SparsifyError(f"{path} is there already: add --overwrite, or another --out")
    write_text(path, text)
    loaded = Recipe.load(path)
    say(f"Written to {path}: {loaded.summary}")
    told = [break_even.sentence()] if hardware == "sparse-engine" else []
    for each in [*([advice.but] if advice.but else []), *told, *notes]:
        note(f"note: {each}")
    if steps == STEPS:
        note(f"It suits a training of {steps:,} optimizer steps; for another length: --steps N --overwrite")
    head = f" --task {task}" if task else ""
    note(f"Next: sparsify explain {path}, sparsify plan {path} --model {model}{head} --steps {steps}")
    if advice.leaves:
        note("Then train with --compact: what has died leaves the model, which makes it faster")


def _written(
    name: str, made: nn.Module, goal: str, hardware: str, sparsity: float | None, steps: int
) -> tuple[str, Advice]:
    """Return a recipe that plans on the model, and the advice in it. Raises PlanError and SparsifyError."""
    anatomy = read(made)
    convolutions = any(isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) for module in made.modules())
    advices = advise(goal, hardware, anatomy.roles() if anatomy else (), convolutions=convolutions)
    best = advices[0]
    if sparsity is not None and sparsity > best.most and best.most > best.sparsity:
        raise SparsifyError(f"--sparsity {sparsity:g} is more than such a recipe can do ({best.most:g})")
    if sparsity is not None and sparsity != best.sparsity and best.most == best.sparsity:
        raise SparsifyError(f"--sparsity {sparsity:g}: this pattern has a sparsity of {best.sparsity:g}, no other")
    return Fitter(name, made, steps, sparsity).first(advices)


def _ask(question: str, flag: str, default: str | None = None) -> str:
    if not sys.stdin.isatty():
        raise SparsifyError(f"{flag} is missing (without a terminal it cannot be asked for)")
    return str(typer.prompt(question, default=default))


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise SparsifyError(f"{flag}: {value!r} is none of them{did_you_mean(value, choices)}")
    return value
