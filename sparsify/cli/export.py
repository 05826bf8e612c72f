"""`sparsify export DIR OUT.onnx`"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sparsify.cli.common import AsJson, finite, guarded, print_json
from sparsify.cli.console import say
from sparsify.cli.pack import check_installed
from sparsify.errors import SparsifyError

NEEDS = ("onnx", "onnxruntime", "onnxscript", "transformers")
OPSET, TOLERANCE = 18, 1e-4


@guarded
def export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of transformers, such as train's --out; or a packed file.")
    ],
    path: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where to write.")],
    opset: Annotated[int, typer.Option("--opset", min=18, help="The version of ONNX's operators.")] = OPSET,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", min=0, callback=finite, help="The largest difference to ONNX Runtime that is accepted."
        ),
    ] = TOLERANCE,
    small: Annotated[
        bool, typer.Option("--compact", help="Export the model without its dead heads, neurons, channels and layers.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Refused: language models are exported without past keys and values.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export a model to ONNX with varying batch and sequence, and check it: results, and zero by zero."""
    if cache:
        raise SparsifyError(
            "--cache: language models are exported without a cache, each call reads the whole text: leave it out, and "
            "generate from the folder itself"
        )
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise SparsifyError(f"the export needs {', '.join(missing)}: pip install 'sparsify-torch[export]'")
    if directory.is_file():
        check_installed("transformers")
    from transformers.utils.logging import disable_progress_bar

    from sparsify.export.onnx import export as write

    disable_progress_bar()

    made = write(directory, path, opset=opset, tolerance=tolerance, small=small)
    if as_json:
        print_json({**vars(made), "path": str(made.path)})
        return
    shapes = ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in made.inputs.items())
    beside = f" (weights in {made.path.name}.data)" if made.external else ""
    say(f"{made.path}: opset {made.opset}, {made.bytes:,} bytes{beside}")
    say(f"inputs: {shapes}; outputs: {', '.join(made.outputs)}")
    say(
        f"against ONNX Runtime: largest difference {made.difference:.2g} (tolerance {tolerance:g}) "
        f"for inputs of {', '.join(' × '.join(map(str, shape)) for shape in made.tried)}"
    )
    if made.compacted:
        before, after = made.compacted
        say(f"compact: {before:,} → {after:,} parameters")
    say(f"zeros: {made.zeros:,}, as many as in the model")
    if made.beside:
        say(f"beside it: {', '.join(made.beside)}")
    if made.left:
        say(f"not beside it, since another model's lie there: {', '.join(made.left)}; export into a folder of its own")
