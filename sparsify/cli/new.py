"""`sparsify new`"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from sparsify.anatomy import read
from sparsify.checkpoint import write_text
from sparsify.cli.common import finite, guarded
from sparsify.cli.console import say
from sparsify.errors import SparsifyError, did_you_mean
from sparsify.plan import Plan
from sparsify.pretrained import skeleton
from sparsify.recipe import Recipe
from sparsify.recipe.advice import GOALS, HARDWARE, advise, compose

STEPS = 1000
"""The run that the plan is tried with."""


@guarded
def new(
    model: Annotated[str | None, typer.Option("--model", metavar="NAME_OR_DIR", help="The model to prune.")] = None,
    goal: Annotated[str | None, typer.Option("--goal", metavar="GOAL", help=f"{' or '.join(GOALS)}.")] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", metavar="KIND", help=f"Where it will run: {', '.join(HARDWARE)}.")
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option("--sparsity", min=0, max=0.99, help="The fraction that ends at zero.")
    ] = None,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="By default NAME.yaml, here.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over an existing file.")] = False,
) -> None:
    """Write a recipe with comments for a model, a goal and a kind of hardware; asks for what is not given."""
    if sparsity is not None:
        finite(sparsity)
    model = model or _ask("The model to prune (a folder or a hub name)", "--model")
    made = skeleton(model)
    goal = _one_of("--goal", goal or _ask(f"The goal ({', '.join(GOALS)})", "--goal", GOALS[0]), GOALS)
    if goal == "speed":
        hardware = hardware or _ask(f"Where it will run ({', '.join(HARDWARE)})", "--hardware", HARDWARE[0])
    hardware = _one_of("--hardware", hardware or HARDWARE[0], HARDWARE)
    text = _written(model, made, goal, hardware, sparsity)
    path = out_file or Path(f"{Recipe.parse(text).name}.yaml")
    if os.path.lexists(path) and not overwrite:
        raise SparsifyError(f"{path} is there already: add --overwrite, or another --out")
    write_text(path, text)
    loaded = Recipe.load(path)
    say(f"Written to {path}: {loaded.summary}")
    say(f"Next: sparsify explain {path}, sparsify plan {path} --model {model} --steps 1000")


def _written(model: str, made: nn.Module, goal: str, hardware: str, sparsity: float | None) -> str:
    """Return a recipe that fits the model, tried as a plan. Raises PlanError and SparsifyError."""
    anatomy = read(made)
    convolutions = any(isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) for module in made.modules())
    attention = anatomy is not None and bool(anatomy.attentions)
    if anatomy is None and goal == "speed" and hardware in ("any", "cpu"):
        raise SparsifyError(
            f"the architecture of {model} is not known, so nobody can say which are its heads and neurons; "
            "write the recipe for --goal size, or see docs/extend.md for adding an architecture"
        )
    advice = advise(goal, hardware, attention=attention, convolutions=convolutions)
    if sparsity is not None and sparsity > advice.most and advice.most > advice.sparsity:
        raise SparsifyError(f"--sparsity {sparsity:g} is more than such a recipe can do ({advice.most:g})")
    if sparsity is not None and sparsity != advice.sparsity and advice.most == advice.sparsity:
        raise SparsifyError(f"--sparsity {sparsity:g}: this pattern has a sparsity of {advice.sparsity:g}, no other")
    targets = None if anatomy is not None else '["type:Linear", "type:Conv2d"]'
    text = compose(advice, name=advice.name, model=model, sparsity=sparsity, targets=targets)
    Plan.of(Recipe.parse(text, f"{advice.name}.yaml"), made, total_steps=STEPS)
    return text


def _ask(question: str, flag: str, default: str | None = None) -> str:
    if not sys.stdin.isatty():
        raise SparsifyError(f"{flag} is missing, and nobody is here to ask")
    return str(typer.prompt(question, default=default))


def _one_of(flag: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise SparsifyError(f"{flag}: {value!r} is none of them{did_you_mean(value, choices)}")
    return value
