"""`sparsify pack DIR OUT`"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sparsify.cli.common import AsJson, guarded, one_of, print_json
from sparsify.cli.completing import words
from sparsify.cli.console import aside, cell, out, say
from sparsify.errors import SparsifyError

if TYPE_CHECKING:
    from sparsify.storage import OutputError, Summary
    from sparsify.storage.summary import Row

NEEDS = ("numpy", "safetensors", "zstandard")
EXACT = "exact"
COLUMNS = (
    "tensors",
    "weights",
    "not zero",
    "dense",
    "positions",
    "values",
    "scales",
    "stored",
    "÷ bound",
    "bits a weight",
)


def check_installed(*more: str) -> None:
    """Raise SparsifyError where a package is missing that storage needs."""
    if missing := [name for name in (*NEEDS, *more) if find_spec(name) is None]:
        extras = "storage,transformers" if more else "storage"
        raise SparsifyError(f"packed files need {', '.join(missing)}: pip install 'sparsify-torch[{extras}]'")


@guarded
def pack(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of transformers, or a file of safetensors.")
    ],
    path: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    values: Annotated[
        str,
        typer.Option(
            "--values",
            callback=one_of(EXACT, "int8", "int4"),
            autocompletion=words(EXACT, "int8", "int4"),
            help="exact: every bit comes back. int8, int4: linear weights become integers with scales.",
        ),
    ] = EXACT,
    group: Annotated[
        int, typer.Option("--group", min=1, max=1 << 20, help="With integers: numbers that share a scale.")
    ] = 64,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="With integers: tables of embeddings become integers, too.")
    ] = False,
    level: Annotated[int, typer.Option("--level", min=1, max=22, help="How hard zstd tries.")] = 19,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show every tensor.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store a folder's weights small, in one file: positions, exponents, signs and mantissas, each compressed."""
    lossy = None if values == EXACT else values
    if lossy is None and embeddings:
        raise typer.BadParameter("it goes with --values int8 or int4", param_hint="--embeddings")
    check_installed()
    from sparsify.storage import pack as write

    summary = write(directory, path, values=lossy, group=group, embeddings=embeddings, level=level)
    error = _output_error(directory, path) if lossy else None
    if as_json:
        print_json({**summary.to_dict(), "values": values, "output_error": vars(error) if error else None})
        return
    _show(summary, values, tensors, error)


def _output_error(directory: Path, path: Path) -> OutputError | None:
    """Return how far the packed model's outputs are from the folder's; None where there is no model."""
    if not (directory / "config.json").is_file() or find_spec("transformers") is None:
        return None
    from transformers.utils.logging import disable_progress_bar

    from sparsify import pretrained
    from sparsify.storage import from_packed, output_error

    disable_progress_bar()
    try:
        return output_error(pretrained.load(directory), from_packed(path).float())
    except SparsifyError as error:
        say(f"the outputs are not compared: {error}", err=True)
        return None


def _show(summary: Summary, values: str, tensors: bool, error: OutputError | None) -> None:
    console = out()
    rows = [*(summary.rows if tensors else ()), *summary.groups()]
    console.print(_table([*rows, summary.total] if len(rows) > 1 else rows))
    dense = summary.total.dense
    ratio = f"{summary.ratio:.3f}× the order-0 bound"
    times = dense / max(summary.bytes - summary.beside, 1)
    console.print(
        f"{summary.path}: {summary.bytes:,} bytes, of them headers {summary.headers:,}, files beside the weights "
        f"{summary.beside:,}"
    )
    console.print(f"weights {times:.2f}× smaller than dense ({dense:,} bytes); with headers {ratio}")
    if values == EXACT:
        console.print("every tensor comes back bit for bit")
    else:
        console.print(_lossy(summary, values, error))
    if summary.left_out:
        console.print(f"left out: {', '.join(map(cell, summary.left_out))}")
    for note in summary.notes:
        aside().print(f"note: {cell(note)}")


def _lossy(summary: Summary, values: str, error: OutputError | None) -> str:
    measured = [row for row in summary.rows if row.error is not None]
    if not measured:
        return f"{values}: no tensor became integers; every tensor comes back bit for bit"
    errors = [row.error for row in measured if row.error]
    largest, worst = max((row.error.largest, row.name) for row in measured if row.error)
    zeroed = sum(each.became_zero for each in errors)
    mean = sum(each.mean for each in errors) / len(errors)
    text = (
        f"{values}: {len(measured)} tensors do NOT come back bit for bit; largest error "
        f"{largest:.2%} of the largest weight ({cell(worst)}), mean error {mean:.2%} of "
        f"the mean weight; weights that became zero: {zeroed:,}"
    )
    if error is None:
        return text
    return f"{text}\noutputs on made-up inputs: off by {error.relative:.2%} (norm), {error.largest:.3g} at most"


def _table(rows: list[Row]) -> Table:
    table = Table(*COLUMNS)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    if each := any(row.layout for row in rows):
        table.add_column("as")
    for row in rows:
        table.add_row(*_cells(row), *([f"{row.layout} {row.value_type}".strip()] if each else []))
    return table


def _cells(row: Row) -> tuple[Any, ...]:
    numbers = (row.elements, row.kept, row.dense, row.positions, row.values, row.scales, row.stored)
    return cell(row.name), *(f"{number:,}" for number in numbers), f"{row.ratio:.3f}", f"{row.bits:.3f}"
