"""`sparsify permute DIR OUT`"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sparsify.cli.common import MOST_SEEDS, AsJson, finite, guarded, print_json
from sparsify.cli.console import cell, note, out, say

if TYPE_CHECKING:
    from sparsify.permuting.found import Kept, Permuted

SECONDS = 600.0
MOST_NOTES = 10


def _pattern(value: str) -> str:
    """Refuse what is no N:M."""
    found = re.fullmatch(r"([1-9][0-9]{0,2}):([1-9][0-9]{0,2})", value)
    if found is None or int(found[1]) >= int(found[2]):
        raise typer.BadParameter(f"{value!r} is no N:M, as 2:4 is: N weights kept of every M")
    return value


@guarded
def permute(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of transformers with a dense model.")],
    path: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write the permuted model to.")],
    pattern: Annotated[
        str, typer.Option("--pattern", callback=_pattern, help="N:M, for which the order is searched.")
    ] = "2:4",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.001, callback=finite, help="How long to search at most.")
    ] = SECONDS,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEEDS, help="Of what is drawn in the search.")] = 0,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every block.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put neurons, and features in heads, in the order that suits N:M, before training; the model computes the same."""
    from transformers.utils.logging import disable_progress_bar

    from sparsify.permuting.folder import permute_folder

    disable_progress_bar()
    n, m = map(int, pattern.split(":"))
    found = permute_folder(directory, path, n, m, seconds=seconds, seed=seed)
    if as_json:
        print_json({"out": str(path), **found.to_dict()})
        return
    out().print(_table(found, tensors))
    say(f"outputs differ by {found.difference:.1g}; searched for {found.seconds:.0f} s")
    if not found.in_time:
        say(f"the search was cut off after {seconds:g} s: more --seconds may keep more, and another run may differ")
    for each in found.notes[:MOST_NOTES]:
        note(f"note: {each}")
    if len(found.notes) > MOST_NOTES:
        note(f"note: … and {len(found.notes) - MOST_NOTES} more (--json has all)")
    say(f"{path}/: prune it with pattern {pattern}; it loads as {directory} does")


def _table(found: Permuted, tensors: bool) -> Table:
    table = Table(f"kept |w| under {found.n}:{found.m}", "as it was", "permuted", "columns moved")
    for column in table.columns[1:]:
        column.justify = "right"
    rows: list[tuple[str, Kept, str]] = [
        (block.weight, block, f"{block.moved:,}") for block in (found.blocks if tensors else ())
    ]
    moved = sum(block.moved for block in found.blocks)
    rows.append((f"what could be permuted ({len(found.blocks)} blocks)", found.total, f"{moved:,}"))
    rows.append(("all targets by default", found.model, ""))
    for name, kept, count in rows:
        before, after = kept.shares
        table.add_row(cell(name), f"{before:.2%}", f"{after:.2%}", count)
    return table
