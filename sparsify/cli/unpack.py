"""`sparsify unpack FILE OUT`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify.cli.common import AsJson, guarded, print_json
from sparsify.cli.console import say
from sparsify.cli.pack import check_installed


@guarded
def unpack(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `sparsify pack` wrote.")],
    directory: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder; for weights alone also a file ending in .safetensors.")
    ],
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes", min=1, help="Refuse what becomes larger. By default 64 MiB, or 1000 times the file's bytes."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the folder that was packed: the same files, the weights bit for bit (or what integers left of them)."""
    check_installed()
    from sparsify.storage import PackedFile
    from sparsify.storage import unpack as write

    written = write(path, directory, max_bytes=max_bytes)
    stored = PackedFile(path, max_bytes=max_bytes).header.stored
    changed = sum(not each.exact for each in stored)
    if as_json:
        print_json({"files": [str(file) for file in written], "tensors": len(stored), "not_exact": changed})
        return
    say(f"{directory}: {len(written)} file{'s' * (len(written) != 1)}, {len(stored)} tensors")
    exact = f"{changed} of them were stored as integers, and are not what they were" if changed else "bit for bit"
    say(exact)
