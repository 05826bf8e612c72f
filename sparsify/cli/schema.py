"""`sparsify schema`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sparsify.checkpoint import write_text
from sparsify.cli.common import BAD_INPUT, guarded
from sparsify.cli.console import say
from sparsify.recipe.reference import reference_text
from sparsify.recipe.schema import schema_text


@guarded
def schema(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it to a file.")] = None,
    check: Annotated[Path | None, typer.Option("--check", metavar="FILE", help="Exit 1 if the file is stale.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference for people instead.")] = False,
) -> None:
    """Print the JSON Schema of recipes, plug-ins included; editors complete and check with it."""
    text = reference_text() if markdown else schema_text()
    if check is not None:
        if not os.path.isfile(check) or check.read_bytes() != text.encode():
            flag = " --markdown" if markdown else ""
            say(f"{check} is stale: run `sparsify schema{flag} --out {check}`", err=True)
            raise typer.Exit(BAD_INPUT)
    elif out is not None:
        write_text(out, text)
    else:
        typer.echo(text, nl=False)
