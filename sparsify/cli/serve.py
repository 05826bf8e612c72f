"""`sparsify serve DIR`"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sparsify.cli.common import finite, guarded, one_of
from sparsify.cli.console import say
from sparsify.errors import SparsifyError
from sparsify.heads import PIPELINES

NEEDS = ("fastapi", "prometheus_client", "transformers", "uvicorn")
ENGINES = ("sparse", "torch")


@guarded
def serve(
    path: Annotated[Path, typer.Argument(metavar="DIR_OR_PACKED", help="A folder of transformers, or a packed file.")],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            callback=one_of(*PIPELINES),
            help=f"{', '.join(PIPELINES)}. By default what the model is made for.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", callback=one_of(*ENGINES), help="sparse or torch.")] = "sparse",
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 for everybody.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=4096, help="By default torch's.")] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, max=4096, help="Texts that run together.")] = 16,
    max_wait: Annotated[
        float,
        typer.Option("--max-wait", min=0, max=10, callback=finite, help="Seconds that a text waits for others."),
    ] = 0.005,
    max_queue: Annotated[int, typer.Option("--max-queue", min=1, max=10**6, help="Texts that wait.")] = 1024,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.001, max=3600, callback=finite, help="Seconds until a request is given up."),
    ] = 30.0,
    max_texts: Annotated[int, typer.Option("--max-texts", min=1, max=10**5, help="Texts of one request.")] = 256,
    max_length: Annotated[int, typer.Option("--max-length", min=1, max=10**6, help="Tokens of one text.")] = 512,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, max=2**30, help="Bytes of one request.")] = 2**20,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, max=2**30, help="Pixels of the images of one request.")
    ] = 2**24,
) -> None:
    """Answer requests over HTTP with a model, in batches; stops in good order at Ctrl-C or SIGTERM."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise SparsifyError(f"serve needs {', '.join(missing)}: pip install 'sparsify-torch[serve]'")
    import torch
    from transformers.utils.logging import disable_progress_bar

    from sparsify.serving.limits import Limits
    from sparsify.serving.model import Served
    from sparsify.serving.running import bound
    from sparsify.serving.running import serve as run

    disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    limits = Limits(max_batch, max_wait, max_queue, timeout, max_texts, max_length, max_bytes, max_pixels)
    with bound(host, port) as place:
        served = Served.open(path, task, engine)
        if (wrong := served.warm()) is not None:
            raise SparsifyError(f"{path}: the model cannot answer: {wrong}")
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{place.getsockname()[1]}"
        run(served, limits, place, lambda: say(f"{served.name}: {served.task} at {address}/predict (Ctrl-C stops it)"))
        say("stopped")
