"""`sparsify compact DIR OUT`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsify.cli.common import AsJson, finite, guarded, print_json
from sparsify.cli.console import note, say

if TYPE_CHECKING:
    from sparsify.compaction import Compacted, Width

TOLERANCE = 1e-5
MOST_NOTES = 10


@guarded
def compact(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of transformers, such as train's --out.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write the smaller model to.")],
    equal: Annotated[
        bool,
        typer.Option("--equal", help="Keep as many heads and neurons in every layer: stock transformers loads it."),
    ] = False,
    align: Annotated[
        int, typer.Option("--align", min=1, max=4096, help="Keep numbers of neurons and channels at multiples of this.")
    ] = 1,
    at_least: Annotated[
        int,
        typer.Option("--at-least", min=0, help="Keep so many heads and neurons in every block (ONNX Runtime needs 1)."),
    ] = 0,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, callback=finite, help="How far outputs may move, relative to the largest."),
    ] = TOLERANCE,
    as_json: AsJson = False,
) -> None:
    """Remove dead heads, neurons, experts, channels and layers from a model; what it computes stays the same."""
    from transformers.utils.logging import disable_progress_bar

    from sparsify.compaction.folder import compact_folder
    from sparsify.compaction.gain import advice

    disable_progress_bar()
    found = compact_folder(directory, out, equal=equal, align=align, at_least=at_least, tolerance=tolerance)
    if as_json:
        print_json(to_dict(found, out))
        return
    before, after = found.parameters
    times = f", {before / after:.2f}× smaller" if after < before else ": nothing in it is dead"
    say(f"{before:,} → {after:,} parameters{times}; outputs differ by {found.difference:.1g} (at most {tolerance:g})")
    for line in _widths(found.widths):
        say(line)
    if found.layers:
        say(f"layers: {len(found.layers)} gone ({', '.join(found.layers)})")
    if found.experts:
        say(f"experts: {len(found.experts)} gone (their routers still choose among all; they get nothing)")
    if found.channels:
        say(f"channels: {found.channels:,} gone")
    for each in found.notes[:MOST_NOTES]:
        note(f"note: {each}")
    if len(found.notes) > MOST_NOTES:
        note(f"note: … and {len(found.notes) - MOST_NOTES} more (--json has all)")
    if sentence := advice(found):
        say(sentence)
    say(loads(found, out))


def loads(found: Compacted, out: Path) -> str:
    """Return the sentence on how a smaller model is loaded."""
    if found.loading.how == "stock":
        changed = ", ".join(f"{name} {new}" for name, (_, new) in found.loading.fields.items())
        said = f" ({changed})" if changed else ""
        return f"{out}/: stock transformers loads it: from_pretrained({str(out)!r}){said}"
    return f"{out}/: load it with sparsify.load({str(out)!r}): {found.loading.why}. Stock from_pretrained refuses it"


def _widths(widths: tuple[Width, ...]) -> list[str]:
    """Return a line a kind: how many units there were and are, and the narrowest and widest block."""
    lines = []
    for kind in dict.fromkeys(width.kind for width in widths):
        mine = [width for width in widths if width.kind == kind]
        before, after = sum(width.before for width in mine), sum(width.after for width in mine)
        if before != after:
            some = sorted({width.after for width in mine})
            each = f"{some[0]} in every block" if len(some) == 1 else f"{some[0]} to {some[-1]} in a block"
            lines.append(f"{kind}: {before:,} → {after:,} ({each}, of {max(width.before for width in mine):,})")
    return lines


def to_dict(found: Compacted, out: Path) -> dict[str, Any]:
    """Return what was done as plain data."""
    from sparsify.compaction.gain import zeros_left

    return {
        "out": str(out),
        "parameters": {"before": found.parameters[0], "after": found.parameters[1]},
        "zeros_left": zeros_left(found),
        "difference": found.difference,
        "widths": [vars(width) for width in found.widths],
        "layers": list(found.layers),
        "experts": list(found.experts),
        "channels": found.channels,
        "loading": {
            "how": found.loading.how,
            "why": found.loading.why,
            "config": {name: list(values) for name, values in found.loading.fields.items()},
            "per_layer_config": {str(index): fields for index, fields in found.loading.per_layer.items()},
        },
        "notes": list(found.notes),
    }
