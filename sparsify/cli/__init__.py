"""The command line: `sparsify …`. Needs the extra `cli`."""

from __future__ import annotations

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

    app(prog_name="sparsify")
