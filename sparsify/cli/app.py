"""The commands, put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sparsify._version import __version__
from sparsify.cli import (
    anatomy,
    benchmark,
    compact,
    demo,
    diff,
    doctor,
    explain,
    export,
    new,
    pack,
    permute,
    plan,
    recipes,
    report,
    schema,
    serve,
    train,
    unpack,
    validate,
)
from sparsify.cli.common import EPILOG
from sparsify.escaping import message


class Commands(TyperGroup):
    """The commands; complaints about the command line are made fit for a terminal, too."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line."""
        with _safe_complaints():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _safe_complaints():
            return super().invoke(ctx)


@contextmanager
def _safe_complaints() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(said := getattr(error, "message", None), str):
            error.message = message(said)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Write a recipe; get a smaller PyTorch model out of your own training loop.",
    epilog=EPILOG,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"sparsify {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("new", epilog=EPILOG)(new.new)
app.command("validate", epilog=EPILOG)(validate.validate)
app.command("explain", epilog=EPILOG)(explain.explain)
app.command("plan", epilog=EPILOG)(plan.plan)
app.command("anatomy", epilog=EPILOG)(anatomy.anatomy)
app.command("train", epilog=EPILOG)(train.train)
app.command("report", epilog=EPILOG)(report.report)
app.command("diff", epilog=EPILOG)(diff.diff)
app.command("compact", epilog=EPILOG)(compact.compact)
app.command("permute", epilog=EPILOG)(permute.permute)
app.command("pack", epilog=EPILOG)(pack.pack)
app.command("unpack", epilog=EPILOG)(unpack.unpack)
app.command("benchmark", epilog=EPILOG)(benchmark.benchmark)
app.command("export", epilog=EPILOG)(export.export)
app.command("serve", epilog=EPILOG)(serve.serve)
app.add_typer(recipes.app, name="recipes")
app.command("schema", epilog=EPILOG)(schema.schema)
app.command("demo", epilog=EPILOG)(demo.demo)
app.command("doctor", epilog=EPILOG)(doctor.doctor)
