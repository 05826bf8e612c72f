"""DeepSparse 1.8.0 as a peer of benchmarks/engine.py, in a process and an environment of its own.

It allows only NumPy 1 and an ONNX of 2023, so it cannot live beside what this project needs. `call` starts this very
file with the Python of that environment (`pip install deepsparse==1.8.0`, Python 3.11). The process says `ready`,
and from then on runs the model once for each line that it reads.
"""

from __future__ import annotations

import atexit
import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPSET = 13
"""The newest that it reads."""


def call(model: Any, given: dict[str, Any], python: str, threads: int) -> Callable[[], object]:
    """Return a call of a model of transformers in DeepSparse, with these inputs.

    Raises `RuntimeError` where its process ends.
    """
    import numpy
    import torch

    folder = Path(tempfile.mkdtemp(prefix="deepsparse-"))
    model_file, inputs = str(folder / "model.onnx"), str(folder / "inputs.npz")
    numpy.savez(inputs, **{name: value.numpy() for name, value in given.items()})
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")  # attention as exporters of its time saw it
    names = {"input_names": list(given), "output_names": ["logits"]}
    torch.onnx.export(eager, (), model_file, kwargs=given, opset_version=OPSET, dynamo=False, **names)
    worker = subprocess.Popen(
        [python, __file__, model_file, inputs, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(worker.kill)
    asks, answers = worker.stdin, worker.stdout
    assert asks is not None
    assert answers is not None

    def await_line(wanted: str) -> None:
        for line in answers:
            if line.strip() == wanted:
                return
        raise RuntimeError(f"DeepSparse ended with {worker.wait()}")

    def run() -> None:
        print("run", file=asks, flush=True)
        await_line("done")

    await_line("ready")
    return run


def main(path: str, inputs: str, threads: str) -> None:
    """Open a model, then run it whenever a line comes."""
    import deepsparse
    import numpy

    given = numpy.load(inputs)
    arrays = [numpy.ascontiguousarray(given[name]) for name in given.files]
    engine = deepsparse.compile_model(path, batch_size=len(arrays[0]), num_cores=int(threads))
    print("ready", flush=True)
    for _ in sys.stdin:
        engine.run(arrays, val_inp=False)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
