"""`sparsify demo`"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sparsify.cli import completing
from sparsify.cli.common import MOST_SEEDS, Sets, guarded, parse_sets
from sparsify.cli.console import aside, out
from sparsify.errors import SparsifyError
from sparsify.recipe import Recipe

EPOCHS = 40
NEEDS = ("matplotlib", "sklearn", "transformers", "zstandard")
LEAST = (5, 12)
"""The first transformers in which a configuration of ViT can say that its model has fewer heads."""


@guarded
def demo(
    recipe: Annotated[
        str, typer.Option("--recipe", help="A recipe, by path or by name.", autocompletion=completing.recipes)
    ] = "demo",
    out_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write.")] = Path("runs/demo"),
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, max=10**6, help="Epochs of each of the three trainings.")
    ] = EPOCHS,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEEDS - 1, help="For weights and batches.")] = 0,
    files: Annotated[
        Path | None,
        typer.Option("--files", metavar="DIR", help="Only write images and the untrained model, for `sparsify train`."),
    ] = None,
    sets: Sets = None,
) -> None:
    """Prune a small vision transformer on real images, in about two minutes, without network or files."""
    loaded = Recipe.load(recipe, **parse_sets(sets))
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise SparsifyError(f"the demo needs {', '.join(missing)}: pip install 'sparsify-torch[demo]'")
    from transformers.utils.logging import disable_progress_bar

    from sparsify.demo.files import write_files
    from sparsify.demo.run import LEAD, run
    from sparsify.demo.table import HEADER

    disable_progress_bar()
    console = out()
    if files is not None:
        places = " ".join(f"--{name} {path}" for name, path in write_files(files, seed).items())
        console.print(
            f"Written to {files}/. Next: sparsify train --task image-classification {places} --out runs/digits"
        )
        return
    installed = version("transformers")
    if tuple(int(number) for number in installed.split(".")[:2]) < LEAST:
        raise SparsifyError(
            f"the demo needs transformers {LEAST[0]}.{LEAST[1]} or later, not {installed}: pip install "
            "'sparsify-torch[demo]'"
        )
    aside().print(LEAD, style="dim")
    outcome = run(
        loaded,
        out_dir,
        epochs=epochs,
        seed=seed,
        show_plan=aside().print,
    )
    table = Table(*HEADER, title="dense | sparse | compact", title_justify="left")
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in outcome.rows():
        table.add_row(*row)
    console.print(table)
    console.print(
        f"Written to {out_dir}/: dense/, sparse/ and compact/ (folders that stock transformers loads), each one"
    )
    console.print("packed, too; recipe.yaml, report.json, picture.png and index.html.")
    aside().print("Next: docs/quick-start.md, or `sparsify recipes show demo`.")
