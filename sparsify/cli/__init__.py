"""The command line: `sparsify …`. Needs the extra `cli`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line; exit 0 fine, 1 bad input, 2 wrong usage."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        print(
            f"sparsify: the command line needs {error.name}: pip install 'sparsify-torch[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    from sparsify.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is no reason to fail
    try:
        app(prog_name="sparsify")
    except SystemExit as ended:
        processes = sys.modules.get("sparsify.train.processes")  # imported where there was a training
        if processes is not None and isinstance(ended.code, int):
            processes.leave(ended.code)
        raise
