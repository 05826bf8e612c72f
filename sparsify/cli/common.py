"""What the commands share: errors to exit codes, JSON, checks of flags, `--set`."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from sparsify import ranks
from sparsify.checkpoint import write_whole
from sparsify.cli.completing import words
from sparsify.cli.console import be_quiet, say
from sparsify.cli.progress import watched
from sparsify.errors import SparsifyError, did_you_mean
from sparsify.escaping import json_text
from sparsify.heads import AUTO, LABELLED
from sparsify.recipe.scalars import read_scalar

BAD_INPUT, STOPPED = 1, 130
EXIT_CODES = {0: "fine", BAD_INPUT: "bad input", 2: "wrong usage", STOPPED: "stopped by Ctrl-C"}
EPILOG = f"Exit codes: {', '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}."
MOST_STEPS = 10**15
MOST_SEEDS = 2**32 - 1
"""What random number generators take."""

TASKS = tuple(AUTO)
"""What `sparsify train` can do, and `sparsify plan` can show."""

FLAGS = {"total_steps": "--steps", "steps_per_epoch": "--steps-per-epoch", "max_bytes": "--max-bytes"}
"""Argument in Python → flag of the command line."""

_ARGUMENT = re.compile(rf"(?<![\w`'\".])({'|'.join(FLAGS)})(?![\w`'\"=.])")

P = ParamSpec("P")
R = TypeVar("R")

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Give a variable of the recipe a value; repeatable."),
]


def one_of(*choices: str) -> Callable[[str | None], str | None]:
    """Return the check of a flag that is one of some words; other words are wrong usage."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(f"{value!r} is not one of the choices{did_you_mean(value, choices)}")
        return value

    return check


ForTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        callback=one_of(*TASKS),
        autocompletion=words(*TASKS),
        help=f"The head that train gives the model: {', '.join(TASKS)}. By default what config.json names.",
    ),
]
Labels = Annotated[
    int | None, typer.Option("--labels", min=1, max=10**6, help="With --task: how many labels the data have.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print results and errors only: no progress, no notes, nothing on what to do next."
    ),
]


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that are meant for users into a message on stderr and exit code 1; add `--quiet` and progress."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        be_quiet(bool(kwargs.pop("quiet", False)))
        try:
            with watched():
                return command(*args, **kwargs)
        except SparsifyError as error:
            if not ranks.is_told(error):
                number = f"process {ranks.launched_as()}: " if ranks.launched_as() else ""
                say(f"{number}{with_flags(str(error))}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    signature = inspect.signature(command, eval_str=True)
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    parameters = [*signature.parameters.values(), quiet]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def with_flags(message: str) -> str:
    """Return a message with flags in the place of Python's arguments; what it quotes, and calls, stay as they are."""
    return _ARGUMENT.sub(lambda found: FLAGS[found[0]], message)


def check_labels(task: str | None, labels: int | None) -> None:
    """Refuse a number of labels for a model whose head has none."""
    if labels is not None and task not in LABELLED:
        raise typer.BadParameter(f"it goes with --task {', '.join(LABELLED)}", param_hint="--labels")


def print_json(data: Any) -> None:
    """Print plain data as JSON."""
    typer.echo(json_text(json.dumps(data, indent=2, ensure_ascii=False)))


def finite(value: float) -> float:
    """Refuse a flag that is no finite number; the parser takes `nan` for one within any bounds."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def parse_sets(sets: Iterable[str] | None) -> dict[str, Any]:
    """Read `name=value` pairs; values as they would be read in a recipe. A usage error exits with 2."""
    values: dict[str, Any] = {}
    for text in sets or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"expected name=value, got {text!r}", param_hint="--set")
        try:
            values[name.strip()] = read_scalar(value.strip())
        except ValueError as error:
            raise typer.BadParameter(f"{name}: {error}", param_hint="--set") from None
    return values


def write_picture(path: Path, draw: Callable[[], bytes]) -> None:
    """Write what `draw` returns to a file. Raises SparsifyError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise SparsifyError("a picture needs matplotlib: pip install 'sparsify-torch[report]'")
    write_whole(path, lambda file: file.write(draw()))
