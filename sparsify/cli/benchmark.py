"""`sparsify benchmark DIR`"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sparsify.checkpoint import write_text
from sparsify.cli.common import AsJson, finite, guarded, print_json, write_picture
from sparsify.cli.completing import Complete, words
from sparsify.cli.console import aside, cell, out, say, styled
from sparsify.errors import BenchmarkError, SparsifyError, did_you_mean

if TYPE_CHECKING:
    from sparsify.benchmarking.results import Result
    from sparsify.report.picture import Picture

NAMES = ("torch", "torch-compile", "onnxruntime", "sparse")
NEEDS = ("safetensors", "transformers", "zstandard")
FEWEST, MOST = 6, 10**6


def numbers(flag: str) -> Callable[[list[str] | None], list[str]]:
    """Return the check of a flag that takes whole numbers above 0, repeated or with commas between."""

    def check(values: list[str] | None) -> list[str]:
        for word in (found := _words(values)):
            if not (word.isascii() and word.isdigit() and len(word) < 9 and 0 < int(word) <= MOST):
                raise typer.BadParameter(f"{word!r} is no whole number from 1 to {MOST:,}", param_hint=flag)
        return found

    return check


def engines(values: list[str] | None) -> list[str]:
    """Check the names of engines."""
    for word in (found := _words(values)):
        if word not in NAMES:
            raise typer.BadParameter(f"there is no engine {word!r}{did_you_mean(word, NAMES)}", param_hint="--engine")
    return found


def _words(values: list[str] | None) -> list[str]:
    """Return what stands between commas, each once."""
    return list(dict.fromkeys(word.strip() for value in values or () for word in value.split(",")))


def _list(
    flag: str, metavar: str, check: Callable[[list[str] | None], list[str]], text: str, complete: Complete | None = None
) -> object:
    help_text = f"{text} Repeatable, or with commas between."
    return typer.Option(flag, metavar=metavar, callback=check, help=help_text, autocompletion=complete)


@guarded
def benchmark(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR…", help="Folders of transformers, or packed files; or results (.json) to draw together."
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="DENSE", help="A folder or packed file: what the others are compared with."),
    ] = None,
    engine: Annotated[
        list[str] | None, _list("--engine", "ENGINE", engines, f"{', '.join(NAMES)}; by default torch.", words(*NAMES))
    ] = None,
    batch_size: Annotated[
        list[str] | None, _list("--batch-size", "N", numbers("--batch-size"), "Rows of the inputs; by default 1.")
    ] = None,
    seq_len: Annotated[
        list[str] | None, _list("--seq-len", "N", numbers("--seq-len"), "Tokens of each text; by default 128.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=4096, help="By default torch's.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=FEWEST, max=MOST, help="At most, for each shape.")] = 30,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", min=0, max=MOST, callback=finite, help=f"For each shape; {FEWEST} rounds are always made."
        ),
    ] = 30.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory, in processes of their own.")
    ] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time of a forward goes (engines torch and sparse).")
    ] = False,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Of report.json, for the picture.")
    ] = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page.")] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write a picture.")] = None,
) -> None:
    """Measure how fast and how large models are, one beside the other in the same run."""
    earlier = [path for path in paths if path.suffix == ".json"]
    if earlier and len(earlier) < len(paths):
        raise typer.BadParameter("either folders, which are measured, or results (.json), which are drawn")
    if earlier and (png is None or html is not None or as_json or profile or against is not None):
        raise typer.BadParameter("results (.json) are drawn: give --png FILE, and at most --metric beside it")
    missing = [name for name in (*NEEDS, *(("matplotlib",) if png or html else ())) if find_spec(name) is None]
    if missing:
        raise SparsifyError(f"this needs {', '.join(missing)}: pip install 'sparsify-torch[report,transformers]'")
    if earlier:
        _together(earlier, metric, png or Path())
        return
    from transformers.utils.logging import disable_progress_bar

    from sparsify.benchmarking.points import choose
    from sparsify.benchmarking.run import Asked, benchmark

    disable_progress_bar()
    asked = Asked(
        folders=tuple(paths),
        against=against,
        engines=tuple(engine or ("torch",)),
        batches=tuple(map(int, batch_size or ("1",))),
        lengths=tuple(map(int, seq_len or ())),
        threads=threads,
        rounds=rounds,
        seconds=seconds,
        memory=memory,
        profile=profile,
        metric=metric,
    )
    result = benchmark(asked)
    if as_json:
        print_json(result.model_dump())
    else:
        _show(result)
    drawn = choose(result.models, metric)
    if html is not None:
        from sparsify.benchmarking.pages import page_of

        write_text(html, page_of(result, _title(result), _picture(result, drawn)))
    if png is not None:
        write_picture(png, lambda: _picture(result, drawn).png)
    for written in filter(None, (html, png)):
        say(f"Written to {written}", err=as_json)


def _together(files: Sequence[Path], asked: str | None, png: Path) -> None:
    """Draw earlier results in one picture."""
    from sparsify.benchmarking.picture import draw
    from sparsify.benchmarking.points import choose, panels
    from sparsify.benchmarking.results import read_result

    results = [read_result(file) for file in files]
    metric = choose([model for result in results for model in result.models], asked)
    if metric is None:
        raise BenchmarkError("no model of these results has a metric: there is nothing to draw speed and size against")
    every = panels(results, metric)
    names = ", ".join(str(file) for file in files)
    write_picture(png, lambda: draw(f"{metric} against size and speed", None, every, metric).png)
    say(f"{names}: {metric} against size and speed of {len(every[0].points)} models. Written to {png}")


def _title(result: Result) -> str:
    others = [model.name for model in result.models if model.name != result.against]
    return ", ".join(others) + (f" against {result.against}" if result.against else "")


def _picture(result: Result, metric: str | None) -> Picture:
    from sparsify.benchmarking.picture import draw
    from sparsify.benchmarking.points import panels

    scored = sum(metric in model.metrics for model in result.models) if metric else 0
    return draw(_title(result), result, panels([result], metric or "") if scored > 1 else (), metric or "")


def _show(result: Result) -> None:
    from sparsify.benchmarking import profile_tables, tables

    console = out()
    console.print(styled((_title(result), "bold")))
    console.print(_table(tables.MODELS, tables.models(result), range(2, 7)))
    for case in result.cases:
        console.print()
        console.print(styled((f"{case.title}: {tables.rate(case)}", "bold")))
        header = tables.header(result)
        console.print(_table(header, tables.timings(result, case), range(2, len(header))))
        console.print(tables.operations(case))
        for who, sentence in tables.sentences(result, case):
            console.print(styled((who, "cyan"), ": ", sentence))
        for sentence, looked in profile_tables.profiles(case):
            console.print()
            console.print(styled((sentence, "bold")))
            for heads, rows in looked:
                console.print(_table(heads, rows, range(1, len(heads))))
    console.print()
    console.print(f"machine: {result.machine}")
    for note in result.notes:
        aside().print(styled(("note:", "yellow"), " ", note))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: range) -> Table:
    table = Table(*map(cell, header))
    for place in right:
        table.columns[place].justify = "right"
    for row in rows:
        table.add_row(*map(cell, row))
    return table
